"""Debugging: one rollout, in this process and under your debugger, without a trainer and without a queue.

Run: python examples/basics/debug_with_step.py
"""

from __future__ import annotations

import asyncio

import agentlightning as agl


@agl.rollout
async def divider(task: dict[str, float], prompt_template: agl.PromptTemplate) -> float:
    """Divides; a breakpoint here works as anywhere else."""
    with agl.operation(name="divide", by=task["by"]):
        return task["number"] / task["by"]


async def main() -> None:
    """Runs a rollout that works and one that does not."""
    store = agl.InMemoryLightningStore()
    runner = agl.LitAgentRunner(agl.OtelTracer())
    resources: agl.NamedResources = {"prompt": agl.PromptTemplate(template="unused", engine="f-string")}
    with runner.run_context(agent=divider, store=store):
        rollout = await runner.step({"number": 1, "by": 4}, resources=resources)
        print(rollout.status)
        for span in await store.query_spans(rollout.rollout_id):
            print(f"  {span.sequence_id} {span.name} {agl.get_reward_value(span) or ''}".rstrip())
        try:
            await runner.step({"number": 1, "by": 0}, resources=resources)
        except ZeroDivisionError as error:  # what the agent raised comes out here
            failed = (await store.query_rollouts(status_in=["failed"]))[0]
            attempt = await store.get_latest_attempt(failed.rollout_id)
            print(f"{failed.status}: {error}; the store has: {attempt.failure.message if attempt else None}")


if __name__ == "__main__":
    asyncio.run(main())

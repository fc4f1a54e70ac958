"""Several rewards for one rollout: one to train on, others to look at.

Run: python examples/basics/several_rewards.py
"""

from __future__ import annotations

import asyncio

import agentlightning as agl


@agl.rollout
def summarizer(task: str, prompt_template: agl.PromptTemplate) -> None:
    """Judges its answer in three respects. An agent that emits its reward returns nothing."""
    words = task.split()
    answer = " ".join(words[:3])
    agl.emit_object({"question": task, "answer": answer})
    agl.emit_reward(
        {"quality": 0.8, "brevity": 1 - len(answer) / len(task), "words": len(words)},
        primary_key="quality",
        attributes={"judge": {"name": "rule of thumb"}},
    )


async def main() -> None:
    """Runs one rollout and reads its rewards back."""
    store = agl.InMemoryLightningStore()
    runner = agl.LitAgentRunner(agl.OtelTracer())
    with runner.run_context(agent=summarizer, store=store):
        rollout = await runner.step(
            "the quick brown fox jumps over the lazy dog",
            resources={"prompt": agl.PromptTemplate(template="Summarise.", engine="f-string")},
        )
    spans = await store.query_spans(rollout.rollout_id)
    print("final reward:", agl.find_final_reward(spans))
    for reward in agl.get_rewards_from_span(agl.find_reward_spans(spans)[-1]):
        print(f"  {reward.name}: {reward.value:.2f}")
    print("object:", next(value for span in spans if (value := agl.get_object_value(span)) is not None))


if __name__ == "__main__":
    asyncio.run(main())

"""Hooks: code that runs around every rollout, without touching the agent.

Run: python examples/basics/hooks.py
"""

from __future__ import annotations

import time
from typing import Any

import agentlightning as agl


class Stopwatch(agl.Hook):
    """Notes in each trace how long the agent took, and says so when the rollout has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[str, float] = {}

    async def on_trace_start(self, *, agent: Any, runner: Any, tracer: agl.Tracer, rollout: agl.Rollout) -> None:
        self.started[rollout.rollout_id] = time.monotonic()

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: agl.Tracer, rollout: agl.Rollout) -> None:
        agl.emit_annotation({"stopwatch": {"seconds": time.monotonic() - self.started.pop(rollout.rollout_id)}})

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: agl.Rollout, spans: Any) -> None:
        seconds = next(span.attributes["stopwatch.seconds"] for span in spans if "stopwatch.seconds" in span.attributes)
        print(f"{rollout.input}: {'fast' if seconds < 0.1 else 'slow'}, reward {agl.find_final_reward(spans)}")


@agl.rollout
def sleeper(task: float, prompt_template: agl.PromptTemplate) -> float:
    """Sleeps as long as it is told."""
    time.sleep(task)
    return 1.0 - task


@agl.algo
def run_all(store, train_dataset) -> None:
    """Runs the dataset once."""
    store.add_resources({"unused": agl.PromptTemplate(template="", engine="f-string")})
    rollouts = [store.enqueue_rollout(task) for task in train_dataset]
    store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in rollouts])


if __name__ == "__main__":
    agl.Trainer(algorithm=run_all, hooks=Stopwatch(), strategy="shm").fit(sleeper, [0.0, 0.2])

"""Client and server by hand: the algorithm in one terminal, runners in another, or on another machine.

Run in one terminal:   python examples/basics/two_terminals.py algorithm
and in another:        python examples/basics/two_terminals.py runner

The environment variables AGL_CURRENT_ROLE, AGL_SERVER_HOST and AGL_SERVER_PORT say the same without arguments.
"""

from __future__ import annotations

import sys
from typing import Any

import agentlightning as agl


@agl.rollout
def counter(task: str, prompt_template: agl.PromptTemplate) -> int:
    """Counts the words of its task."""
    return len(task.split())


@agl.algo
async def count_all(store: agl.LightningStore, train_dataset: Any) -> None:
    """Waits for whichever runners there are, whenever they come."""
    await store.add_resources({"unused": agl.PromptTemplate(template="", engine="f-string")})
    rollouts = [await store.enqueue_rollout(task) for task in train_dataset]
    print("waiting for runners", flush=True)
    async for rollout in store.wait_iter(rollout_ids=[rollout.rollout_id for rollout in rollouts]):
        print(rollout.input, "->", agl.find_final_reward(await store.query_spans(rollout.rollout_id)), flush=True)


if __name__ == "__main__":
    strategy = agl.ClientServerExecutionStrategy(role=sys.argv[1] if len(sys.argv) > 1 else None)
    trainer = agl.Trainer(algorithm=count_all, strategy=strategy)
    # The runners leave when the algorithm has ended.
    trainer.fit(counter, ["one", "one two", "one two three"])

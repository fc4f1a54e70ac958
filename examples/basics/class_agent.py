"""An agent as a class: what it sets up once serves all its rollouts, and training may differ from validation.

Run: python examples/basics/class_agent.py
"""

from __future__ import annotations

import random
from typing import Any

import agentlightning as agl


class Guesser(agl.LitAgent[int]):
    """Guesses a number below ten: at random while it trains, its best guess when it is validated."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)

    def training_rollout(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return self.reward(task, self.random.randrange(10))

    def validation_rollout(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return self.reward(task, 5)

    @staticmethod
    def reward(wanted: int, guess: int) -> float:
        agl.emit_message(f"guessed {guess}")
        return 1.0 - abs(wanted - guess) / 10


@agl.algo
async def compare(store: agl.LightningStore, train_dataset: Any, val_dataset: Any) -> None:
    """Runs both datasets and prints what each rollout said and earned."""
    await store.add_resources({})  # this agent needs none
    for mode, dataset in (("train", train_dataset), ("val", val_dataset)):
        rollouts = [await store.enqueue_rollout(task, mode=mode) for task in dataset]
        async for rollout in store.wait_iter(rollout_ids=[rollout.rollout_id for rollout in rollouts]):
            spans = await store.query_spans(rollout.rollout_id)
            said = [message for span in spans if (message := agl.get_message_value(span)) is not None]
            print(f"{mode}: task {rollout.input}, {', '.join(said)}, reward {agl.find_final_reward(spans):.1f}")


if __name__ == "__main__":
    agl.Trainer(algorithm=compare, strategy="shm").fit(Guesser(seed=7), [3, 7], val_dataset=[5])

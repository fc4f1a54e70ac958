"""An algorithm of your own: hill climbing on a number, with a batch of rollouts for each step.

Run: python examples/basics/custom_algorithm.py
"""

from __future__ import annotations

import random
from typing import Any

import agentlightning as agl

TARGET = 0.7


@agl.rollout
async def thermostat(task: float, prompt_template: agl.PromptTemplate) -> float:
    """Earns more the closer the published setting comes to the target; `task` is the noise of the day."""
    setting = float(prompt_template.format())
    return 1.0 - abs(setting + task - TARGET)


class HillClimbing(agl.Algorithm):
    """Tries a neighbour of the best setting so far, on the whole dataset, and keeps it if it did better."""

    def __init__(self, steps: int, seed: int = 0) -> None:
        super().__init__()
        self.steps = steps
        self.random = random.Random(seed)

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        best, best_reward = 0.0, await self.score(0.0, train_dataset)
        for step in range(self.steps):
            candidate = min(1.0, max(0.0, best + self.random.uniform(-0.3, 0.3)))
            reward = await self.score(candidate, train_dataset)
            if reward > best_reward:
                best, best_reward = candidate, reward
            print(
                f"step {step}: setting {candidate:.2f} earned {reward:.3f}; best is {best:.2f} with {best_reward:.3f}"
            )

    async def score(self, setting: float, dataset: Any) -> float:
        """Publishes a setting, runs the dataset with it, and returns the mean reward."""
        store = self.get_store()
        published = await store.add_resources({"setting": agl.PromptTemplate(template=str(setting), engine="f-string")})
        requests = [
            agl.EnqueueRolloutRequest(input=task, mode="train", resources_id=published.resources_id) for task in dataset
        ]
        rollouts = await store.enqueue_many_rollouts(requests)
        rewards = []
        async for rollout in store.wait_iter(rollout_ids=[rollout.rollout_id for rollout in rollouts]):
            reward = agl.find_final_reward(await store.query_spans(rollout.rollout_id, "latest"))
            rewards.append(reward if reward is not None else 0.0)
        return sum(rewards) / len(rewards)


if __name__ == "__main__":
    agl.Trainer(algorithm=HillClimbing(steps=16), n_runners=2, strategy="shm").fit(thermostat, [-0.05, 0.0, 0.05])

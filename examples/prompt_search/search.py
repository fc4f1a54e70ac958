"""The algorithm: tries every prompt on the training tasks, and checks the best on tasks that played no part in that."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from statistics import fmean

from data import Task

from agentlightning import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    LightningStore,
    PromptTemplate,
    Rollout,
    RolloutMode,
    algo,
    find_final_reward,
)


@algo
async def prompt_search(
    store: LightningStore,
    initial_resources: Mapping[str, PromptTemplate],
    train_dataset: Sequence[Task],
    val_dataset: Sequence[Task],
) -> None:
    """Finds the best of the prompts in `initial_resources`, of which the first is in use so far, and publishes it."""
    names = list(initial_resources)
    evaluation = Evaluation(store, initial_resources)

    print("\nBefore: the first prompt on the held-out tasks. The runners load the model first: some 20 seconds.")
    before = await evaluation.mean_reward(names[0], val_dataset, "val")

    print("\nSearch: every prompt on the training tasks.")
    scores = {name: await evaluation.mean_reward(name, train_dataset, "train") for name in names}
    best = max(names, key=scores.__getitem__)

    print(f"\nAfter: the best of them, {best!r}, on the held-out tasks.")
    after = before if best == names[0] else await evaluation.mean_reward(best, val_dataset, "val")

    await store.add_resources({best: initial_resources[best]})
    print(f"\nHeld-out score before: {before:.2f}  (prompt {names[0]!r})")
    print(f"Held-out score after:  {after:.2f}  (prompt {best!r})")
    print("The chosen prompt, now the latest resources in the store:\n")
    text = initial_resources[best].format(sentence="{sentence}")
    print("\n".join(f"    {line}".rstrip() for line in text.splitlines()))


class Evaluation:
    """Has the runners try prompts, and says on the way how it goes."""

    def __init__(self, store: LightningStore, prompts: Mapping[str, PromptTemplate]) -> None:
        self._store = store
        self._prompts = prompts

    async def mean_reward(self, name: str, tasks: Sequence[Task], mode: RolloutMode) -> float:
        """Runs the agent on `tasks` with the prompt called `name`.

        Raises:
            RuntimeError: A rollout did not succeed.
        """
        published = await self._store.add_resources({name: self._prompts[name]})
        rollouts = await self._store.enqueue_many_rollouts(
            [
                EnqueueRolloutRequest(
                    input=task, mode=mode, resources_id=published.resources_id, metadata={"prompt": name}
                )
                for task in tasks
            ]
        )
        number = list(self._prompts).index(name) + 1
        label = f"  prompt {number}/{len(self._prompts)}  {name:<16}"
        rewards: list[float] = []
        _show(label, rewards, len(tasks))
        async with aclosing(self._store.wait_iter(rollout_ids=[each.rollout_id for each in rollouts])) as finished:
            async for rollout in finished:
                rewards.append(await self._reward(rollout))
                _show(label, rewards, len(tasks))
        return fmean(rewards)

    async def _reward(self, rollout: Rollout) -> float:
        if rollout.status != "succeeded":
            failure = rollout.attempt.failure if isinstance(rollout, AttemptedRollout) else None
            why = failure.message if failure else "it says no reason"
            raise RuntimeError(f"rollout {rollout.rollout_id} ended as {rollout.status}: {why}")
        return find_final_reward(await self._store.query_spans(rollout.rollout_id)) or 0.0


def _show(label: str, rewards: Sequence[float], total: int) -> None:
    """Shows progress: on a terminal in one line that is rewritten, elsewhere in a line for every eighth rollout."""
    done = len(rewards)
    mean = f"{fmean(rewards):.2f}" if rewards else "-"
    line = f"{label}  {done:>2}/{total} rollouts  mean reward {mean}"
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if done == total else "", flush=True)
    elif done % 8 == 0 or done == total:
        print(line, flush=True)

"""Code for agent-lightning 0.2 as it was, and the same with what has become possible since.

Run: python examples/basics/migrate_from_0_2.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentlightning import algo, emit_reward, find_final_reward, prompt_rollout
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.trainer import Trainer
from agentlightning.types import PromptTemplate, Task


@prompt_rollout
def old_agent(task: dict[str, Any], prompt_template: PromptTemplate) -> None:
    """Runs unchanged: an unannotated or otherwise annotated `task` is the payload."""
    emit_reward(float(len(prompt_template.format(**task))))


@prompt_rollout
def new_agent(task: Task, prompt_template: PromptTemplate) -> int:
    """New: `task: Task` gets the whole task, and whole numbers are rewards like any other."""
    return len(prompt_template.format(**task.input)) + len(task.metadata)


@algo
async def old_algorithm(*, store, train_dataset, initial_resources) -> None:
    """Runs unchanged, polling included."""
    await store.update_resources("default", initial_resources)
    rollouts = [await store.enqueue_rollout(input=sample, mode="train") for sample in train_dataset]
    ids = [rollout.rollout_id for rollout in rollouts]
    while len(await store.wait_for_rollouts(rollout_ids=ids, timeout=0.0)) < len(ids):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    for rollout_id in ids:
        print("old:", find_final_reward(await store.query_spans(rollout_id)))


@algo
async def new_algorithm(*, store, train_dataset, initial_resources) -> None:
    """New: waiting costs nothing, each rollout is there the moment it ends, and a retry is a matter of its config."""
    await store.update_resources("default", initial_resources)
    rollouts = [
        await store.enqueue_rollout(input=sample, mode="train", metadata={"note": "new"}) for sample in train_dataset
    ]
    async for rollout in store.wait_iter(rollout_ids=[rollout.rollout_id for rollout in rollouts]):
        print("new:", find_final_reward(await store.query_spans(rollout.rollout_id)))


if __name__ == "__main__":
    for algorithm, agent in ((old_algorithm, old_agent), (new_algorithm, new_agent)):
        Trainer(
            algorithm=algorithm,
            store=InMemoryLightningStore(),
            strategy="shm",
            initial_resources={"prompt": PromptTemplate(template="Hello {name}", engine="f-string")},
        ).fit(agent, [{"name": "Ada"}])

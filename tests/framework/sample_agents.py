"""Agents and algorithms that runner processes of the tests import."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from agentlightning import (
    AttemptedRollout,
    Hook,
    LightningStore,
    LitAgent,
    algo,
    emit_reward,
    prompt_rollout,
    rollout,
)
from agentlightning.execution import ExecutionEvent, current_worker_name
from agentlightning.litagent.decorator import FunctionalLitAgent


@rollout
def greet(task: dict[str, Any], prompt_template: Any) -> float:
    assert prompt_template.format(name=task["name"]) == f"Hello {task['name']}"
    return float(task["reward"])


@prompt_rollout
async def greet_async(task: dict[str, Any], prompt_template: Any, rollout: AttemptedRollout) -> None:
    await asyncio.sleep(0)
    assert rollout.input == task
    emit_reward(task["reward"])


def _renamed(task: Any, prompt_template: Any) -> float:
    return 0.25


kept_under_another_name = FunctionalLitAgent(_renamed)


class Echo(LitAgent[Any]):
    """Does what its task says."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
        kind = task["do"]
        if kind == "reward":
            return task["value"]
        if kind == "return":
            return task["value"]
        if kind == "return spans":
            return [emit_reward(value, propagate=False) for value in task["values"]]
        if kind == "raise":
            raise ValueError(task["message"])
        if kind == "exit":
            os._exit(task["code"])
        if kind == "sleep":
            Path(task["mark"]).write_text(str(os.getpid()))
            time.sleep(task["seconds"])
            return 1.0
        if kind == "once":
            # Kills the process on the first try only.
            mark = Path(task["mark"])
            if not mark.exists():
                mark.write_text(str(os.getpid()))
                time.sleep(task.get("seconds", 0.5))
                os._exit(7)
            return 1.0
        if kind == "pid":
            # Long enough for the others to take some too.
            time.sleep(task.get("seconds", 0.0))
            emit_reward({"pid": os.getpid(), "constant": 1}, primary_key="pid")
            return None
        raise AssertionError(kind)


def _note(task: Any, text: str) -> None:
    Path(task["mark"]).write_text(text)


class SleepyAsync(LitAgent[Any]):
    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
        _note(task, "begun")
        try:
            await asyncio.sleep(task["seconds"])
        except asyncio.CancelledError:
            _note(task, "cancelled")
            raise
        return 1.0


class CancelsAll(LitAgent[Any]):
    """Cancels all that runs in its event loop, its runner too, on the first try only."""

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        if not os.path.exists(task["mark"]):  # noqa: ASYNC240
            _note(task, "begun")
            for each in asyncio.all_tasks():
                each.cancel()
            await asyncio.sleep(60)
        return 1.0


class WhereAmI(LitAgent[Any]):
    """Rewards with the id of its process, whatever the task."""

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        return float(os.getpid())


class DiesAtUnpickling(LitAgent[Any]):
    def __setstate__(self, state: dict[str, Any]) -> None:
        raise RuntimeError("this agent cannot live here")


class NotingHook(Hook):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
        self.append(f"{rollout.rollout_id} {len(spans)} {agent.get_trainer().n_runners}\n")

    def append(self, line: str) -> None:
        with open(self.path, "a") as file:
            file.write(line)


@algo
async def enqueue_and_wait(*, store: Any, train_dataset: Any, initial_resources: Any) -> None:
    """Runs every sample once, and notes in the metadata which process asked for it."""
    await store.add_resources(initial_resources)
    ids = [
        (await store.enqueue_rollout(sample, metadata={"asked by": os.getpid()})).rollout_id for sample in train_dataset
    ]
    await store.wait_for_rollouts(rollout_ids=ids)


@algo
async def failing_algorithm(*, store: Any, train_dataset: Any) -> None:
    """Fails once its rollout is at work."""
    await store.add_resources({})
    await store.enqueue_rollout(train_dataset[0])
    while not Path(train_dataset[0]["mark"]).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.05)
    raise LookupError("lost the thread")


async def wait_to_be_told(store: LightningStore, event: ExecutionEvent) -> None:
    """The algorithm's side of a run that does nothing."""
    while not event.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def note_name(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
    """The runners' side of a run that only says who is there."""
    await store.update_worker(current_worker_name() or "nobody")


@algo
async def named_algorithm(*, store: Any) -> None:
    """Does nothing."""

"""Agents that runner processes can import, and an algorithm that works with a legacy server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from agentlightning.algorithm.base import Algorithm
from agentlightning.emitter import emit_reward
from agentlightning.litagent.litagent import LitAgent
from agentlightning.types import NamedResources, Rollout


class DoublingAgent(LitAgent[Any]):
    """Earns twice its task."""

    def rollout(self, task: Any, resources: NamedResources, rollout: Rollout) -> float:
        emit_reward(-1.0)
        return 2.0 * task


class AsyncAgent(LitAgent[Any]):
    """The same, awaiting."""

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: Rollout) -> float:
        emit_reward(-1.0)
        return 2.0 * task


class DyingAgent(LitAgent[Any]):
    """Ends its process once, and does as it should from then on.

    Args:
        mark: A file that tells that it has died.
    """

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = mark

    def rollout(self, task: Any, resources: NamedResources, rollout: Rollout) -> float:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return float(os.getpid())
        os._exit(3)


class WaitingAlgorithm(Algorithm):
    """Queues its samples at a legacy server of another thread, and waits for the reports.

    Args:
        queue: Queues a sample.
        client: What the runners are to use.
        reports: Returns the reports that there are.
    """

    def __init__(self, queue: Any, client: Any, reports: Any) -> None:
        super().__init__()
        self.rewards: list[float | None] = []
        self._queue = queue
        self._client = client
        self._reports = reports

    def get_client(self) -> Any:
        return self._client

    def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        for sample in train_dataset:
            self._queue(sample)
        while len(self.rewards) < len(train_dataset):
            time.sleep(0.02)
            self.rewards += [report.final_reward for report in self._reports()]

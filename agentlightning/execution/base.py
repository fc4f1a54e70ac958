"""What a trainer asks of an execution strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.store.base import LightningStore


class AlgorithmBundle(Protocol):
    """The algorithm's side of a run."""

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Runs the algorithm to its end.

        Args:
            store: The store to work with.
            event: Is set when the run is to end.
        """


class RunnerBundle(Protocol):
    """The runners' side of a run, one call for each runner."""

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Runs one runner until the event is set.

        Args:
            store: The store to take rollouts from.
            worker_id: Number of the runner, from 0.
            event: Is set when the run is to end.
        """


class ExecutionStrategy:
    """Runs an algorithm and its runners together."""

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Runs both until the algorithm has ended and the runners have left.

        Args:
            algorithm: The algorithm's side.
            runner: The runners' side.
            store: What they meet at.

        Raises:
            Exception: What the algorithm raised.
        """
        raise NotImplementedError

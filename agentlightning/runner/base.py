"""What every runner offers to execution strategies and to people who debug."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from agentlightning.types import Hook, NamedResources, ParallelWorkerBase, Rollout, RolloutMode, TaskInput

if TYPE_CHECKING:
    from typing_extensions import Self

    from agentlightning.execution.events import ExecutionEvent
    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.store.base import LightningStore

T = TypeVar("T")


class Runner(ParallelWorkerBase, Generic[T]):
    """Runs an agent on rollouts of a store: `init`, `init_worker`, then `iter` or `step`, and the teardowns."""

    def for_worker(self) -> Self:
        """Returns a runner like this one for one more worker of the same process.

        The two must share nothing that the set-ups and teardowns touch. This is a shallow copy of a runner that has
        not been set up; override it where that shares too much.
        """
        return copy.copy(self)

    def init(self, agent: LitAgent[T], **kwargs: Any) -> None:
        """Takes the agent.

        Args:
            agent: The agent to run.
            **kwargs: What else the subclass knows, such as `hooks`.
        """
        raise NotImplementedError

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:
        """Takes the store.

        Args:
            worker_id: Number of this runner among those of its trainer.
            store: Where the rollouts come from and the spans go.
            **kwargs: What else the subclass knows.
        """
        raise NotImplementedError

    def run(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not for runners.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a runner has no run: await iter() to take rollouts from the store, or step(input) for one")

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Takes rollouts and runs them until told to stop.

        Args:
            event: Ends the loop when it is set; what is at work is finished first.
        """
        raise NotImplementedError

    async def step(
        self,
        input: TaskInput,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Runs the agent on one input, at once and without the queue.

        Args:
            input: What the agent is asked to do.
            resources: What to publish for it first; the latest in the store are used if None.
            mode: Which split of the data the input belongs to.
            event: Stops the work when it is set.

        Returns:
            The finished rollout.

        Raises:
            Exception: What the agent raised.
            asyncio.CancelledError: The work was stopped, by the event or by the store.
        """
        raise NotImplementedError

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | None = None,
    ) -> Iterator[Self]:
        """Sets the runner up for the block and takes it down after it, to debug an agent without a trainer.

        Args:
            agent: The agent to run.
            store: Where the rollouts and spans go.
            hooks: What to call around each rollout.
            worker_id: Number of the runner; 0 unless given.
        """
        number = 0 if worker_id is None else worker_id
        self.init(agent, hooks=hooks)
        try:
            self.init_worker(number, store)
            try:
                yield self
            finally:
                self.teardown_worker(number)
        finally:
            self.teardown()

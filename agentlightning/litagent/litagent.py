"""The base class of agents."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning.litagent.task import task_argument
from agentlightning.types import NamedResources, Rollout, RolloutRawResult

if TYPE_CHECKING:
    from agentlightning.runner.base import Runner
    from agentlightning.tracer.base import Tracer
    from agentlightning.trainer.trainer import Trainer

T = TypeVar("T")


_working_for: ContextVar[Runner[Any] | None] = ContextVar("agentlightning_runner", default=None)


@contextmanager
def working_for(runner: Runner[Any]) -> Iterator[None]:
    """Has agents that ask for their runner during the block, and in what inherits its context, get `runner`."""
    token = _working_for.set(runner)
    try:
        yield
    finally:
        _working_for.reset(token)


class MissingResourceError(ValueError):
    """An agent needs a resource that the rollout's resources lack."""


def is_v0_1_rollout_api(func: Callable[..., Any]) -> bool:
    """Returns whether `func` is a rollout method of release 0.1, whose second parameter is `rollout_id`."""
    names = [name for name in inspect.signature(func).parameters if name != "self"]
    return len(names) > 1 and names[1] == "rollout_id"


class LitAgent(Generic[T]):
    """An agent: override `rollout`, or `rollout_async` for one that awaits.

    A rollout returns its reward as a number, or None when it emitted one or has none, or its spans as a list. Anything
    else that it returns is kept with its spans as an object. Synchronous rollouts run in a thread of their own,
    asynchronous ones on the runner's loop. Several runners of one process share the agent. On their way to runner
    processes agents are pickled; references to trainer and runner are left out and set anew.
    """

    # On the class, so that subclasses need not call __init__.
    _trainer_ref: weakref.ref[Trainer] | None = None
    _runner_ref: weakref.ref[Runner[T]] | None = None

    def __init__(self, *, trained_agents: str | None = None) -> None:
        """Makes the agent.

        Args:
            trained_agents: Pattern of the names of the sub-agents to be trained, for algorithms that tell them apart.
        """
        self.trained_agents = trained_agents

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_trainer_ref", "_runner_ref")}

    def is_async(self) -> bool:
        """Returns whether the agent overrides any of the asynchronous methods; the runner then calls those."""
        return any(
            getattr(type(self), name) is not getattr(LitAgent, name)
            for name in ("rollout_async", "training_rollout_async", "validation_rollout_async")
        )

    def set_trainer(self, trainer: Trainer) -> None:
        """Notes the trainer, without keeping it alive."""
        self._trainer_ref = weakref.ref(trainer)

    def get_trainer(self) -> Trainer:
        """Returns the trainer.

        Raises:
            ValueError: There is none, or it is gone.
        """
        trainer = self._trainer_ref() if self._trainer_ref is not None else None
        if trainer is None:
            raise ValueError("Trainer has not been set for this agent.")
        return trainer

    @property
    def trainer(self) -> Trainer:
        """The trainer; see `get_trainer`."""
        return self.get_trainer()

    def get_tracer(self) -> Tracer:
        """Returns the tracer of the runner, or else that of the trainer.

        Raises:
            ValueError: There is neither.
        """
        tracer = getattr(self._runner(), "tracer", None)
        return tracer if tracer is not None else self.get_trainer().tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer; see `get_tracer`."""
        return self.get_tracer()

    def set_runner(self, runner: Runner[T]) -> None:
        """Notes the runner, without keeping it alive."""
        self._runner_ref = weakref.ref(runner)

    def get_runner(self) -> Runner[T]:
        """Returns the runner that runs the calling code, or else the one that was set last.

        Raises:
            ValueError: There is none, or it is gone.
        """
        runner = self._runner()
        if runner is None:
            raise ValueError("Runner has not been set for this agent.")
        return runner

    @property
    def runner(self) -> Runner[T]:
        """The runner; see `get_runner`."""
        return self.get_runner()

    def _runner(self) -> Runner[T] | None:
        running = _working_for.get()
        if running is not None:
            return running
        return self._runner_ref() if self._runner_ref is not None else None

    def on_rollout_start(self, task: Any, runner: Runner[T], tracer: Tracer) -> None:
        """Deprecated and called by the legacy runner only: use `Hook.on_rollout_start`."""

    def on_rollout_end(self, task: Any, rollout: Any, runner: Runner[T], tracer: Tracer) -> None:
        """Deprecated and called by the legacy runner only: use `Hook.on_rollout_end`."""

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task.

        Args:
            task: The input of the rollout; a whole `Task` where the override annotates it so.
            resources: What the algorithm provides, by name.
            rollout: The rollout with its attempt, an `AttemptedRollout`.

        Returns:
            The reward, the spans, or None; anything else is kept as an object.

        Raises:
            Exception: Whatever it raises fails the attempt with the kind `AGENT_ERROR`.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither rollout nor rollout_async")

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task; see `rollout`."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither rollout nor rollout_async")

    def training_rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of mode `train`; `rollout` unless overridden."""
        return self.rollout(task_argument(self.rollout, task, rollout), resources, rollout)

    def validation_rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of any other mode; `rollout` unless overridden."""
        return self.rollout(task_argument(self.rollout, task, rollout), resources, rollout)

    async def training_rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of mode `train`; `rollout_async` unless overridden."""
        return await self.rollout_async(task_argument(self.rollout_async, task, rollout), resources, rollout)

    async def validation_rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of any other mode; `rollout_async` unless overridden."""
        return await self.rollout_async(task_argument(self.rollout_async, task, rollout), resources, rollout)

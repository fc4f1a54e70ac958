"""The base class of agents."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning.types import NamedResources, Rollout, RolloutRawResult

if TYPE_CHECKING:
    from agentlightning.runner.base import Runner
    from agentlightning.tracer.base import Tracer
    from agentlightning.trainer.trainer import Trainer

T = TypeVar("T")


class MissingResourceError(ValueError):
    """An agent needs a resource that the rollout's resources lack."""


def is_v0_1_rollout_api(func: Callable[..., Any]) -> bool:
    """Returns whether `func` is a rollout method of release 0.1, whose second parameter is `rollout_id`."""
    names = [name for name in inspect.signature(func).parameters if name != "self"]
    return len(names) > 1 and names[1] == "rollout_id"


class LitAgent(Generic[T]):
    """An agent: override `rollout`, or `rollout_async` for one that awaits.

    A rollout returns its reward as a number, or None when it emitted one or has none, or its spans as a list; see
    `RolloutRawResult`. Synchronous rollouts run in a thread of their own, asynchronous ones on the runner's loop.
    Agents are pickled on their way to runner processes; references to trainer and runner are left out and set anew.
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
        runner = self._runner_ref() if self._runner_ref is not None else None
        tracer = getattr(runner, "tracer", None)
        return tracer if tracer is not None else self.get_trainer().tracer

    @property
    def tracer(self) -> Tracer:
        """The tracer; see `get_tracer`."""
        return self.get_tracer()

    def set_runner(self, runner: Runner[T]) -> None:
        """Notes the runner, without keeping it alive."""
        self._runner_ref = weakref.ref(runner)

    def get_runner(self) -> Runner[T]:
        """Returns the runner.

        Raises:
            ValueError: There is none, or it is gone.
        """
        runner = self._runner_ref() if self._runner_ref is not None else None
        if runner is None:
            raise ValueError("Runner has not been set for this agent.")
        return runner

    @property
    def runner(self) -> Runner[T]:
        """The runner; see `get_runner`."""
        return self.get_runner()

    def on_rollout_start(self, task: Any, runner: Runner[T], tracer: Tracer) -> None:
        """Deprecated and called by the legacy runner only: use `Hook.on_rollout_start`."""

    def on_rollout_end(self, task: Any, rollout: Any, runner: Runner[T], tracer: Tracer) -> None:
        """Deprecated and called by the legacy runner only: use `Hook.on_rollout_end`."""

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task.

        Args:
            task: The input of the rollout.
            resources: What the algorithm provides, by name.
            rollout: The rollout with its attempt, an `AttemptedRollout`.

        Returns:
            The reward, the spans, or None.

        Raises:
            Exception: Whatever it raises fails the attempt with the kind `AGENT_ERROR`.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither rollout nor rollout_async")

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task; see `rollout`."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither rollout nor rollout_async")

    def training_rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of mode `train`; `rollout` unless overridden."""
        return self.rollout(task, resources, rollout)

    def validation_rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of any other mode; `rollout` unless overridden."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of mode `train`; `rollout_async` unless overridden."""
        return await self.rollout_async(task, resources, rollout)

    async def validation_rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Works on one task of any other mode; `rollout_async` unless overridden."""
        return await self.rollout_async(task, resources, rollout)

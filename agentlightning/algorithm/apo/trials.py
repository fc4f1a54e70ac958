"""Trying prompts: rollouts of the agent with a candidate, and what they earned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from agentlightning.algorithm.apo.candidates import Candidate
from agentlightning.emitter import find_final_reward
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    NamedResources,
    Rollout,
    RolloutMode,
    RolloutStatus,
    Span,
)

if TYPE_CHECKING:
    from agentlightning.adapter.messages import TraceToMessages

logger = logging.getLogger(__name__)

NO_REWARD: Final = 0.0
"""What a rollout counts for that did not succeed, was given up, or reported no reward."""


@dataclass(frozen=True)
class Trial:
    """One rollout of the agent with a candidate."""

    task: Any
    """What the agent was asked to do."""
    status: RolloutStatus
    """How it ended."""
    reward: float | None = None
    """The reward that it reported; None if it reported none or did not succeed."""
    failure: str = ""
    """Why it did not succeed, if it did not and that is known."""
    conversations: Sequence[Mapping[str, Any]] = ()
    """Its model calls, as `TraceToMessages` returns them."""

    @property
    def score(self) -> float:
        """What it counts for."""
        return NO_REWARD if self.reward is None else self.reward


def mean_score(trials: Sequence[Trial]) -> float:
    """Returns what the trials count for on average."""
    return fmean(trial.score for trial in trials)


class Trials:
    """Has the runners try candidates. Batches that are asked for at the same time run at the same time."""

    def __init__(
        self,
        store: LightningStore,
        adapter: TraceToMessages,
        resources: NamedResources,
        resource_name: str,
        patience: float,
    ) -> None:
        """Prepares to try candidates.

        Args:
            store: Where the runners are met.
            adapter: Finds the model calls among the spans.
            resources: What agents run with; each candidate stands in for one of them.
            resource_name: The name of that one.
            patience: Seconds to wait for one more rollout to finish, of whichever batch, before those that are left
                count as failed.
        """
        self._store = store
        self._adapter = adapter
        self._resources = resources
        self._resource_name = resource_name
        self._patience = patience
        self._published: dict[str, str] = {}
        self._last_sign_of_life = 0.0
        self._rewarded = False
        self._failure = ""

    async def publish(self, candidate: Candidate) -> None:
        """Makes the candidate the latest prompt for whoever asks the store."""
        update = await self._store.add_resources({**self._resources, self._resource_name: candidate.prompt})
        self._published[candidate.version] = update.resources_id

    async def run(
        self, candidate: Candidate, tasks: Sequence[Any], mode: RolloutMode, *, with_conversations: bool = False
    ) -> list[Trial]:
        """Runs the agent with a candidate that is published.

        Args:
            candidate: The prompt to try.
            tasks: What to ask the agent to do; one rollout each.
            mode: The mode of the rollouts.
            with_conversations: Whether to look for the model calls.

        Returns:
            The trials, in the order of the tasks.
        """
        rollouts = await self._store.enqueue_many_rollouts(
            [
                EnqueueRolloutRequest(
                    input=task,
                    mode=mode,
                    resources_id=self._published[candidate.version],
                    metadata={"apo_version": candidate.version},
                )
                for task in tasks
            ]
        )
        self._last_sign_of_life = _now()
        done = await self._finished(rollouts, with_conversations)
        trials = [done[rollout.rollout_id] for rollout in rollouts]
        self._rewarded = self._rewarded or any(trial.reward is not None for trial in trials)
        self._failure = next((trial.failure for trial in trials if trial.failure), self._failure)
        logger.info(
            "prompt %s: mean reward %.3f on %d %s rollouts, %d of which did not succeed",
            candidate.version,
            mean_score(trials),
            len(trials),
            mode,
            sum(trial.status != "succeeded" for trial in trials),
        )
        return trials

    def expect_rewards(self) -> None:
        """Does nothing if any rollout has ever reported a reward.

        Raises:
            RuntimeError: None has, so there is nothing to improve a prompt by.
        """
        if not self._rewarded:
            raise RuntimeError(
                "no rollout has reported a reward so far. "
                + (f"The last failure was: {self._failure}" if self._failure else "Return a number from the agent.")
            )

    async def _finished(self, rollouts: Sequence[Rollout], with_conversations: bool) -> dict[str, Trial]:
        trials: dict[str, Trial] = {}
        left = {rollout.rollout_id: rollout for rollout in rollouts}
        while left and (patience := self._last_sign_of_life + self._patience - _now()) > 0:
            async with aclosing(self._store.wait_iter(rollout_ids=list(left), timeout=patience)) as finished:
                async for rollout in finished:
                    self._last_sign_of_life = _now()
                    del left[rollout.rollout_id]
                    trials[rollout.rollout_id] = await self._trial(rollout, with_conversations)
            if left:
                known = {rollout.rollout_id for rollout in await self._store.query_rollouts(rollout_id_in=list(left))}
                for rollout_id in left.keys() - known:
                    trials[rollout_id] = _without_reward(left.pop(rollout_id), "it was deleted")
        if left:
            logger.warning(
                "%d rollouts count as failed: none has finished for %g s (rollout_batch_timeout)",
                len(left),
                self._patience,
            )
        for rollout in left.values():
            cancelled = await self._store.update_rollout(rollout.rollout_id, status="cancelled")
            trials[rollout.rollout_id] = _without_reward(cancelled, "it took too long")
        return trials

    async def _trial(self, rollout: Rollout, with_conversations: bool) -> Trial:
        spans = await self._store.query_spans(rollout.rollout_id, "latest")
        succeeded = rollout.status == "succeeded"
        return Trial(
            task=rollout.input,
            status=rollout.status,
            reward=find_final_reward(spans) if succeeded else None,
            failure="" if succeeded else _failure_of(rollout),
            conversations=self._conversations(spans) if with_conversations else (),
        )

    def _conversations(self, spans: Sequence[Span]) -> Sequence[Mapping[str, Any]]:
        try:
            return self._adapter.adapt(spans)
        except Exception:
            # The task and the reward are left to learn from.
            logger.warning("the model calls of a rollout cannot be read", exc_info=True)
            return ()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _without_reward(rollout: Rollout, failure: str) -> Trial:
    return Trial(rollout.input, "cancelled", failure=failure)


def _failure_of(rollout: Rollout) -> str:
    failure = rollout.attempt.failure if isinstance(rollout, AttemptedRollout) else None
    return failure.message if failure and failure.message else f"it ended as {rollout.status}"

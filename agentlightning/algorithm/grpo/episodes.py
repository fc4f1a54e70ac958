"""Rollouts of a step: enqueued, waited for, and read into episodes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from agentlightning.adapter.triplet import LlmProxyTraceToTriplet
from agentlightning.algorithm.grpo.progress import BatchProgress
from agentlightning.algorithm.grpo.samples import Episode
from agentlightning.algorithm.policies.calls import UnusableSpans, read_calls, why_without_reward
from agentlightning.emitter.reward import find_final_reward
from agentlightning.store.base import LightningStore
from agentlightning.types import EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode

logger = logging.getLogger(__name__)

# What a rollout that did not succeed may still become without anybody's help.
_ON_ITS_WAY: Final = ("queuing", "requeuing", "succeeded")


@dataclass
class Batch:
    """What came of rollouts that ran together."""

    groups: list[list[Episode]]
    """The usable rollouts, those of each task together; a task all of whose rollouts were lost has an empty group."""
    lost: Counter[str] = field(default_factory=Counter)
    """Why rollouts are in no group, and how many for each reason."""

    @property
    def episodes(self) -> list[Episode]:
        """All usable rollouts."""
        return [episode for group in self.groups for episode in group]

    @property
    def rewards(self) -> list[float]:
        """Their rewards."""
        return [episode.reward for episode in self.episodes]


class Episodes:
    """Has runners run the agent, and reads what came of it.

    Rollouts have ids that say which they are, so that asking twice for the same ones runs them once. What of them did
    not succeed when they are asked for again runs again: its model calls may have met a server that had gone.
    """

    def __init__(
        self,
        store: LightningStore,
        run: str,
        config: RolloutConfig,
        *,
        models: Collection[str],
        temperature: float,
        failed_reward: float | None,
        on_finished: Callable[[BatchProgress], None],
    ) -> None:
        """Prepares to run the agent.

        Args:
            store: Where the runners are met.
            run: Begins the ids of the rollouts.
            config: Limits and retries of each rollout.
            models: The names by which agents call the policy.
            temperature: The temperature of model calls that asked for none.
            failed_reward: What a rollout counts that failed after model calls, or reported no reward. None: it is lost.
            on_finished: Is told of each rollout that has finished.
        """
        self._store = store
        self._run = run
        self._config = config
        self._models = models
        self._temperature = temperature
        self._failed_reward = failed_reward
        self._on_finished = on_finished
        self._adapter = LlmProxyTraceToTriplet()

    async def collect(
        self, label: str, tasks: Sequence[Any], each: int, mode: RolloutMode, resources_id: str, *, needs_calls: bool
    ) -> Batch:
        """Runs the agent on tasks; returns when all rollouts have finished.

        Args:
            label: Names the batch; no other of the run may have the same.
            tasks: What to ask the agent to do.
            each: How many rollouts each task gets.
            mode: The mode of the rollouts.
            resources_id: What the agent runs with.
            needs_calls: Whether a rollout without model calls to train on is lost.

        Raises:
            ValueError: The store has rollouts of this run and label that are others, of another dataset for example.
            RuntimeError: None of the rollouts can be used; the message says why.
        """
        wanted = [
            EnqueueRolloutRequest(
                input=task,
                mode=mode,
                resources_id=resources_id,
                config=self._config,
                metadata={"run": self._run, "batch": label, "task": number},
                rollout_id=f"{self._run}-{label}-{number:03}-{sample:03}",
            )
            for number, task in enumerate(tasks)
            for sample in range(each)
        ]
        for rollout in await self._store.enqueue_many_rollouts(wanted):
            if rollout.status not in _ON_ITS_WAY:
                await self._store.update_rollout(rollout.rollout_id, status="requeuing")
        ids = [str(request.rollout_id) for request in wanted]
        read: dict[str, Episode] = {}
        lost: Counter[str] = Counter()
        async with aclosing(self._store.wait_iter(rollout_ids=ids)) as finished:
            async for rollout in finished:
                try:
                    read[rollout.rollout_id] = await self._read(rollout, needs_calls)
                except UnusableSpans as error:
                    lost[str(error)] += 1
                mean = fmean(episode.reward for episode in read.values()) if read else None
                self._on_finished(BatchProgress(label, len(read) + lost.total(), len(ids), mean))
        groups = [
            [read[rollout_id] for rollout_id in ids[begin : begin + each] if rollout_id in read]
            for begin in range(0, len(ids), each)
        ]
        if not read:
            reasons = "; ".join(f"{reason} ({count}x)" for reason, count in lost.items())
            raise RuntimeError(f"none of the rollouts of {label} can be used: {reasons}")
        for reason, count in lost.items():
            logger.warning("%s: %d of %d rollouts are left out: %s", label, count, len(ids), reason)
        return Batch(groups, lost)

    async def _read(self, rollout: Rollout, needs_calls: bool) -> Episode:
        spans = await self._store.query_spans(rollout.rollout_id, "latest")
        reward = find_final_reward(spans) if rollout.status == "succeeded" else None
        if reward is None:
            reward = self._failed_reward
        if reward is None:
            raise UnusableSpans(why_without_reward(rollout))
        calls = read_calls(self._adapter.adapt(spans), self._temperature, self._models) if needs_calls else []
        return Episode(rollout.rollout_id, reward, calls)

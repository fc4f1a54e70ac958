"""A training under way: steps of rollouts and updates, validation, checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Final

from agentlightning.algorithm.grpo.checkpoints import Checkpoints
from agentlightning.algorithm.grpo.config import GRPOConfig
from agentlightning.algorithm.grpo.episodes import Batch, Episodes
from agentlightning.algorithm.grpo.learner import Learner
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.grpo.progress import STEP_RESOURCE, Step, read_history, step_resource
from agentlightning.algorithm.grpo.samples import samples_of
from agentlightning.algorithm.policies.calls import LLM_RESOURCE
from agentlightning.algorithm.utils import batch_iter_over_dataset
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store.base import LightningStore
from agentlightning.store.errors import NotFound
from agentlightning.types import Dataset, NamedResources
from agentlightning.utils.threads import run_in_thread

logger = logging.getLogger(__name__)

MODEL: Final = "policy"
"""The name by which agents call the policy in training."""
VALIDATION_MODEL: Final = "policy-validation"
"""The name by which they call it in validation: the same weights, and another temperature."""


class Training:
    """One run. What it has done is in the store and in its folder, and it goes on from there.

    A step counts as done when its checkpoint is written. What of the next step was done before an interruption is in
    the store, where its rollouts have ids that say which they are: those that succeeded are not run again.
    """

    def __init__(
        self,
        run: str,
        config: GRPOConfig,
        *,
        store: LightningStore,
        proxy: LLMProxy,
        policy: Policy,
        episodes: Episodes,
        folder: Path,
        initial_resources: NamedResources,
        history: dict[int, Step],
        on_step: Callable[[Step], None],
    ) -> None:
        """Puts the parts of a run together.

        Args:
            run: Its name.
            config: The hyperparameters.
            store: Where its resources go.
            proxy: The gateway before the policy.
            policy: What is trained.
            episodes: Runs the agent.
            folder: Where to keep checkpoints, and the trained policy in the end.
            initial_resources: What agents get besides the policy.
            history: Is filled with the steps by their versions.
            on_step: Is told of each step that is done, and again when its policy has been validated.
        """
        self._run = run
        self._config = config
        self._store = store
        self._proxy = proxy
        self._policy = policy
        self._learner = Learner(policy, config)
        self._checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
        self._episodes = episodes
        self._folder = folder
        self._initial_resources = initial_resources
        self._history = history
        self._on_step = on_step

    async def run(self, train_dataset: Dataset[Any], val_dataset: Dataset[Any] | None) -> None:
        """Trains to the last step; see `GRPO.run`."""
        await self._restore()
        batches = batch_iter_over_dataset(train_dataset, self._config.tasks_per_step, seed=self._config.seed)
        await self._publish()
        await self._validate(val_dataset)
        for tasks in islice(batches, self._policy.version, self._config.steps):
            await self._step(tasks)
            await self._validate(val_dataset)
        await run_in_thread(self._policy.save, self._folder / "policy")

    async def _restore(self) -> None:
        if await run_in_thread(self._checkpoints.restore, self._policy, self._learner):
            logger.info("%s goes on from step %d", self._run, self._policy.version)
            await self._proxy.set_model_version(str(self._policy.version), MODEL)
        with suppress(NotFound):  # an experiment begins with the first write to it
            self._history.update({step.version: step for step in await read_history(self._store, self._run)})
        self._history.setdefault(self._policy.version, Step(self._policy.version))

    async def _step(self, tasks: Sequence[Any]) -> None:
        version = self._policy.version
        began = time.monotonic()
        batch = await self._episodes.collect(
            f"step-{version:06}",
            tasks,
            self._config.group_size,
            "train",
            self._resources_id("train"),
            needs_calls=True,
        )
        collected = time.monotonic()
        figures = await self._update(batch)
        step = Step(rollout_seconds=collected - began, update_seconds=time.monotonic() - collected, **figures)
        if step.version % self._config.checkpoint_every == 0 or step.version == self._config.steps:
            await run_in_thread(self._checkpoints.save, self._policy, self._learner)
        self._history[step.version] = step
        await self._publish()
        self._on_step(step)

    async def _update(self, batch: Batch) -> dict[str, Any]:
        """Trains on the rollouts; returns figures for a `Step`."""
        config, old_version = self._config, str(self._policy.version)
        samples = samples_of(
            batch.groups,
            scale_advantages=config.scale_advantages,
            aggregation=config.aggregation,
            keep_even=config.kl_coef > 0,
        )
        # Calls of rollouts that were given up may still be under way.
        async with self._proxy.weight_update(str(self._policy.version + 1)):
            metrics = await run_in_thread(self._learner.update, samples)
        calls = [call for episode in batch.episodes for call in episode.calls]
        return {
            "version": self._policy.version,
            "reward": fmean(batch.rewards),
            "reward_spread": pstdev(batch.rewards),
            "rollouts": len(batch.episodes),
            "lost": batch.lost.total(),
            "uneven_groups": sum(len({episode.reward for episode in group}) > 1 for group in batch.groups),
            "response_tokens": sum(len(call.response) for call in calls) / len(batch.episodes),
            "stale_calls": sum(call.model_version not in ("", old_version) for call in calls),
            **asdict(metrics),
        }

    async def _validate(self, tasks: Dataset[Any] | None) -> None:
        version, every = self._policy.version, self._config.validate_every
        step = self._history[version]
        is_due = every and (version % every == 0 or version == self._config.steps)
        if not is_due or tasks is None or len(tasks) == 0 or step.validation is not None:
            return
        batch = await self._episodes.collect(
            f"val-{version:06}",
            [tasks[index] for index in range(len(tasks))],
            1,
            "val",
            self._resources_id("val"),
            needs_calls=False,
        )
        self._history[version] = step = replace(step, validation=fmean(batch.rewards))
        await self._publish()
        self._on_step(step)

    async def _publish(self) -> None:
        """Publishes the policy as it is. The set for training comes last, so that it is the latest."""
        figures = step_resource(self._history[self._policy.version])
        for mode, model, temperature in (
            ("val", VALIDATION_MODEL, self._config.validation_temperature),
            ("train", MODEL, self._config.temperature),
        ):
            llm = self._proxy.as_resource(model=model, sampling_parameters={"temperature": temperature})
            resources: NamedResources = {LLM_RESOURCE: llm, **self._initial_resources}
            if mode == "train":
                resources[STEP_RESOURCE] = figures
            await self._store.update_resources(self._resources_id(mode), resources)

    def _resources_id(self, mode: str) -> str:
        return f"{self._run}-{self._policy.version:06}-{mode}"

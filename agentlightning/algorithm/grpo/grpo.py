"""Group-relative policy optimisation as an algorithm of a trainer."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Final

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.grpo.config import GRPOConfig
from agentlightning.algorithm.grpo.progress import STEP_RESOURCE, BatchProgress, Step, read_history, step_resource
from agentlightning.algorithm.utils import batch_iter_over_dataset
from agentlightning.store.errors import NotFound
from agentlightning.types import Dataset
from agentlightning.utils.extras import require_packages
from agentlightning.utils.threads import run_in_thread

if TYPE_CHECKING:
    from agentlightning.algorithm.grpo.checkpoints import Checkpoints
    from agentlightning.algorithm.grpo.episodes import Batch, Episodes
    from agentlightning.algorithm.grpo.learner import Learner
    from agentlightning.algorithm.grpo.policy import ModelSource, Policy
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

MODEL: Final = "policy"
"""The name by which agents call the policy in training."""
VALIDATION_MODEL: Final = "policy-validation"
"""The name by which they call it in validation: the same weights, and another temperature."""
LLM_RESOURCE: Final = "main_llm"
"""The name of the resource that agents find it in."""


class GRPO(Algorithm):
    """Trains a language model by reinforcement learning: group-relative policy optimisation.

    In each step some tasks run several times each, with the agent calling the policy through a model gateway. How much
    better a rollout did than the others of its task says in which direction all tokens are pushed that the policy chose
    in it; see https://arxiv.org/abs/2402.03300. The agent needs no change: it calls the model that its `llm` names.

    The policy is sampled and trained in the process of the algorithm, on a GPU or the CPU. What a run has done is in
    the store, and in checkpoints in `folder`. A run that was interrupted goes on when it is started again with the same
    name, store and folder, and goes the way that it would have gone, as far as rounding allows.

    It needs the extra `train`.
    """

    def __init__(
        self,
        model: ModelSource,
        config: GRPOConfig | None = None,
        *,
        run: str | None = None,
        folder: str | Path = "grpo-runs",
        on_step: Callable[[Step], None] = lambda step: None,
        on_rollout: Callable[[BatchProgress], None] = lambda progress: None,
    ) -> None:
        """Configures the training.

        Args:
            model: The name or folder of a causal language model of transformers, or a function that returns one and its
                tokenizer.
            config: The hyperparameters.
            run: The name of the run; a new one unless given. Ids of its rollouts and resources begin with it.
            folder: Where to keep checkpoints and, at the end, the trained policy: in a folder with the name of the run.
            on_step: Is told of each step when it is done, and again when its policy has been validated.
            on_rollout: Is told of each rollout that has finished.

        Raises:
            ImportError: The extra `train` is not installed.
        """
        require_packages("GRPO", "train", "torch", "transformers", "peft", "fastapi", "uvicorn", "httpx")
        super().__init__()
        self.config = config or GRPOConfig()
        self.run_name = run or f"grpo-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        self.folder = Path(folder) / self.run_name
        self._model = model
        self._on_step = on_step
        self._on_rollout = on_rollout
        self._history: dict[int, Step] = {}

    @property
    def history(self) -> list[Step]:
        """The steps so far, those of an earlier part of the run included."""
        return [self._history[version] for version in sorted(self._history)]

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Trains.

        Args:
            train_dataset: The tasks to learn from.
            val_dataset: The tasks to judge by; without any there is no validation.

        Raises:
            ValueError: There are no tasks to learn from, the model cannot be trained here, or the store or folder has a
                run of this name that is another one.
            RuntimeError: None of the rollouts of a step can be learned from; the message says why.
        """
        if train_dataset is None or len(train_dataset) == 0:
            raise ValueError("GRPO needs a train_dataset with the tasks to learn from")
        await run_in_thread(_import_torch)
        async with self._training() as training:
            await training.run(train_dataset, val_dataset)

    @asynccontextmanager
    async def _training(self) -> AsyncIterator[_Training]:
        """Loads the policy and serves it."""
        from agentlightning.algorithm.grpo.checkpoints import Checkpoints
        from agentlightning.algorithm.grpo.episodes import Episodes
        from agentlightning.algorithm.grpo.learner import Learner
        from agentlightning.algorithm.grpo.policy import Policy

        config, store = self.config, self.get_store()
        policy = await run_in_thread(
            Policy.load,
            self._model,
            lora=config.lora,
            with_reference=config.kl_coef > 0,
            device=config.device,
            dtype=config.dtype,
        )
        learner = Learner(policy, config)
        checkpoints = Checkpoints(self.folder / "checkpoints", config.keep_checkpoints)
        if await run_in_thread(checkpoints.restore, policy, learner):
            logger.info("%s goes on from step %d", self.run_name, policy.version)
        try:
            self._history = {step.version: step for step in await read_history(store, self.run_name)}
        except NotFound:  # an experiment begins with the first write to it
            self._history = {}
        episodes = Episodes(
            store,
            self.run_name,
            config.rollout_config,
            temperature=config.temperature,
            failed_reward=config.failed_reward,
            on_finished=self._on_rollout,
        )
        async with self._served(policy) as proxy:
            yield _Training(self, store, proxy, policy, learner, checkpoints, episodes)

    @asynccontextmanager
    async def _served(self, policy: Policy) -> AsyncIterator[LLMProxy]:
        """Serves the policy, and a gateway before it: that of the trainer, or one of its own."""
        from agentlightning.algorithm.grpo.policy_server import PolicyServer
        from agentlightning.algorithm.grpo.requests import ServedModel
        from agentlightning.llm_proxy import Backend, LLMProxy

        config = self.config
        temperatures = {MODEL: config.temperature, VALIDATION_MODEL: config.validation_temperature}
        server = PolicyServer(
            policy,
            {name: ServedModel(each, config.max_response_tokens) for name, each in temperatures.items()},
            max_concurrency=config.max_concurrency,
            max_context_tokens=config.max_context_tokens,
            seed=config.seed,
        )
        async with AsyncExitStack() as stack:
            await server.start()
            stack.push_async_callback(server.stop)
            proxy: LLMProxy = self.get_llm_proxy() or LLMProxy(store=self.get_store())
            others = [backend for backend in proxy.model_list if backend.model_name not in temperatures]
            version = str(policy.version)
            proxy.update_model_list(
                [
                    *others,
                    *(
                        Backend(name, server.url, model_version=version, told_of_attempts=True) for name in temperatures
                    ),
                ]
            )
            if not proxy.is_running():
                await proxy.start()
                stack.push_async_callback(proxy.stop)
            yield proxy


class _Training:
    """A run under way."""

    def __init__(
        self,
        algorithm: GRPO,
        store: LightningStore,
        proxy: LLMProxy,
        policy: Policy,
        learner: Learner,
        checkpoints: Checkpoints,
        episodes: Episodes,
    ) -> None:
        self._algorithm = algorithm
        self._config = algorithm.config
        self._history = algorithm._history
        self._store = store
        self._proxy = proxy
        self._policy = policy
        self._learner = learner
        self._checkpoints = checkpoints
        self._episodes = episodes

    async def run(self, train_dataset: Dataset[Any], val_dataset: Dataset[Any] | None) -> None:
        config = self._config
        batches = batch_iter_over_dataset(train_dataset, config.tasks_per_step, seed=config.seed)
        self._history.setdefault(self._policy.version, Step(self._policy.version))
        await self._publish()
        await self._validate(val_dataset)
        for tasks in islice(batches, self._policy.version, config.steps):
            await self._step(tasks)
            await self._validate(val_dataset)
        await run_in_thread(self._policy.save, self._algorithm.folder / "policy")

    async def _step(self, tasks: Any) -> None:
        config, version = self._config, self._policy.version
        began = time.monotonic()
        batch = await self._episodes.collect(
            f"step-{version:06}", tasks, config.group_size, "train", self._resources_id("train"), needs_calls=True
        )
        if not batch.episodes:
            reasons = "; ".join(f"{reason} ({count}x)" for reason, count in batch.lost.items())
            raise RuntimeError(f"none of the rollouts of step {version} can be learned from: {reasons}")
        collected = time.monotonic()
        step = await self._update(batch, str(version))
        step = replace(step, rollout_seconds=collected - began, update_seconds=time.monotonic() - collected)
        if step.version % config.checkpoint_every == 0 or step.version == config.steps:
            await run_in_thread(self._checkpoints.save, self._policy, self._learner)
        # Not before the checkpoint: a step that the store knows need not be done again.
        self._history[step.version] = step
        await self._publish()
        self._algorithm._on_step(step)

    async def _update(self, batch: Batch, version: str) -> Step:
        from agentlightning.algorithm.grpo.samples import samples_of

        config = self._config
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
        return Step(
            version=self._policy.version,
            reward=fmean(batch.rewards),
            reward_spread=pstdev(batch.rewards),
            rollouts=len(batch.episodes),
            lost=batch.lost.total(),
            uneven_groups=sum(len({episode.reward for episode in group}) > 1 for group in batch.groups),
            response_tokens=sum(len(call.response) for call in calls) / len(batch.episodes),
            stale_calls=sum(call.model_version not in ("", version) for call in calls),
            **asdict(metrics),
        )

    async def _validate(self, tasks: Dataset[Any] | None) -> None:
        config, version = self._config, self._policy.version
        step = self._history[version]
        due = config.validate_every and (version % config.validate_every == 0 or version == config.steps)
        if not due or not tasks or step.validation is not None:
            return
        all_tasks = [tasks[index] for index in range(len(tasks))]
        batch = await self._episodes.collect(
            f"val-{version:06}", all_tasks, 1, "val", self._resources_id("val"), needs_calls=False
        )
        if not batch.rewards:
            reasons = "; ".join(f"{reason} ({count}x)" for reason, count in batch.lost.items())
            raise RuntimeError(f"none of the rollouts of the validation set has a reward: {reasons}")
        self._history[version] = step = replace(step, validation=fmean(batch.rewards))
        await self._publish()
        self._algorithm._on_step(step)

    async def _publish(self) -> None:
        """Publishes the policy of this version. The set for training comes last, so that it is the latest."""
        config, initial = self._config, self._algorithm.get_initial_resources() or {}
        step = step_resource(self._history[self._policy.version])
        for mode, model, temperature in (
            ("val", VALIDATION_MODEL, config.validation_temperature),
            ("train", MODEL, config.temperature),
        ):
            llm = self._proxy.as_resource(model=model, sampling_parameters={"temperature": temperature})
            resources = {LLM_RESOURCE: llm, **initial, **({STEP_RESOURCE: step} if mode == "train" else {})}
            await self._store.update_resources(self._resources_id(mode), resources)

    def _resources_id(self, mode: str) -> str:
        return f"{self._algorithm.run_name}-{self._policy.version:06}-{mode}"


def _import_torch() -> None:
    # It takes seconds, in which the loop must go on.
    import agentlightning.algorithm.grpo.learner  # noqa: F401

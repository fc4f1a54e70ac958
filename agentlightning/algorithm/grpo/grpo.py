"""Group-relative policy optimisation as an algorithm of a trainer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.grpo.config import GRPOConfig
from agentlightning.algorithm.grpo.progress import BatchProgress, Step
from agentlightning.algorithm.utils import new_run_name
from agentlightning.types import Dataset
from agentlightning.utils.extras import require_packages
from agentlightning.utils.threads import run_in_thread

if TYPE_CHECKING:
    from agentlightning.algorithm.grpo.policy import ModelSource


class GRPO(Algorithm):
    """Trains a language model by reinforcement learning: group-relative policy optimisation.

    In each step some tasks run several times each, with the agent calling the policy through a model gateway. How much
    better a rollout did than the others of its task says in which direction all tokens are pushed that the policy chose
    in it; see https://arxiv.org/abs/2402.03300. The agent needs no change: it calls the model that its `llm` names.

    The policy is sampled and trained in the process of the algorithm, on a GPU or the CPU. What a run has done is in
    the store, and in checkpoints in `folder`. A run that was interrupted goes on when it is started again with the same
    name, store and folder, and goes the way that it would have gone, as far as rounding allows.

    It needs the extra `train`.

    Attributes:
        config: The hyperparameters.
        run_name: The name of the run.
        folder: Where it keeps its checkpoints, and the trained policy in the end.
    """

    def __init__(
        self,
        model: ModelSource,
        config: GRPOConfig | None = None,
        *,
        run: str | None = None,
        folder: str | Path = "grpo-runs",
        on_step: Callable[[Step], None] | None = None,
        on_rollout: Callable[[BatchProgress], None] | None = None,
    ) -> None:
        """Configures the training.

        Args:
            model: The name or folder of a causal language model of transformers, or a function that returns one and its
                tokenizer.
            config: The hyperparameters.
            run: The name of the run; a new one unless given. Ids of its rollouts and resources begin with it.
            folder: Where the run is to have a folder of its name.
            on_step: Is told of each step when it is done, and again when its policy has been validated.
            on_rollout: Is told of each rollout that has finished.

        Raises:
            ImportError: The extra `train` is not installed.
        """
        require_packages("GRPO", "train", "torch", "transformers", "peft", "fastapi", "uvicorn", "httpx")
        super().__init__()
        self.config = config or GRPOConfig()
        self.run_name = run or new_run_name("grpo")
        self.folder = Path(folder) / self.run_name
        self._model = model
        self._on_step = on_step or _ignore
        self._on_rollout = on_rollout or _ignore
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
            RuntimeError: None of the rollouts of a step or of a validation can be used; the message says why.
        """
        if train_dataset is None or len(train_dataset) == 0:
            raise ValueError("GRPO needs a train_dataset with the tasks to learn from")
        # Imports of PyTorch and loading take seconds, in which the loop must go on.
        await run_in_thread(importlib.import_module, "agentlightning.algorithm.grpo.training")
        from agentlightning.algorithm.grpo.episodes import Episodes
        from agentlightning.algorithm.grpo.policy import Policy
        from agentlightning.algorithm.grpo.serving import served
        from agentlightning.algorithm.grpo.training import MODEL, VALIDATION_MODEL, Training
        from agentlightning.llm_proxy import LLMProxy

        config, store = self.config, self.get_store()
        policy = await run_in_thread(
            Policy.load,
            self._model,
            device=config.device,
            dtype=config.dtype,
            lora=config.lora,
            with_reference=config.kl_coef > 0,
            seed=config.seed,
        )
        proxy: LLMProxy = self.get_llm_proxy() or LLMProxy(store=store)
        self._history.clear()
        training = Training(
            self.run_name,
            config,
            store=store,
            proxy=proxy,
            policy=policy,
            episodes=Episodes(
                store,
                self.run_name,
                config.rollout_config,
                models=(MODEL, VALIDATION_MODEL),
                temperature=config.temperature,
                failed_reward=config.failed_reward,
                on_finished=self._on_rollout,
            ),
            folder=self.folder,
            initial_resources=self.get_initial_resources() or {},
            history=self._history,
            on_step=self._on_step,
        )
        async with served(policy, proxy, config):
            await training.run(train_dataset, val_dataset)


def _ignore(news: object) -> None:
    """Does nothing, and unlike a lambda can be sent to another process."""

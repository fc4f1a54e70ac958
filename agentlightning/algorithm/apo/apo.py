"""`APO`: a beam search for a better prompt, guided by a language model's critiques."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from agentlightning.algorithm.apo.candidates import BeamRound
from agentlightning.algorithm.apo.editor import PromptEditor
from agentlightning.algorithm.apo.placeholders import find_placeholders
from agentlightning.algorithm.apo.search import Judged, Search, SearchSettings
from agentlightning.algorithm.apo.trials import Trials
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.utils import expect_dataset
from agentlightning.types import Dataset, NamedResources, PromptTemplate

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from agentlightning.adapter.messages import TraceToMessages

logger = logging.getLogger(__name__)

T = TypeVar("T")


class APO(Algorithm, Generic[T]):
    """Improves the prompt of an agent by automatic prompt optimisation (https://arxiv.org/abs/2305.03495).

    It starts from the one `PromptTemplate` among the trainer's `initial_resources`. In each round the agent is run with
    the prompts of the beam on a few training tasks; a language model criticises each prompt in the light of what
    happened, another edits it accordingly; old and new prompts are compared on the same validation tasks, and the best
    stay in the beam. The best of each round is judged on all validation tasks. At the end the best prompt of all is
    published, so it is the latest in the store.

    The agent gets all other initial resources as they are. A rollout that fails, is given up, or reports no reward
    counts as reward 0. New prompts keep exactly the blanks of the first one; an edit that does not is sent back, and
    after three tries dropped.

    Model calls of the agent are read with the trainer's adapter if that is a `TraceToMessages`, else with one of its
    own.
    """

    def __init__(
        self,
        async_openai_client: AsyncOpenAI,
        *,
        gradient_model: str = "gpt-5-mini",
        apply_edit_model: str = "gpt-4.1-mini",
        diversity_temperature: float = 1.0,
        gradient_batch_size: int = 4,
        val_batch_size: int = 16,
        beam_width: int = 4,
        branch_factor: int = 4,
        beam_rounds: int = 3,
        rollout_batch_timeout: float = 3600.0,
        run_initial_validation: bool = True,
        seed: int | None = None,
    ) -> None:
        """Sets the search up.

        Args:
            async_openai_client: An `openai.AsyncOpenAI`, for whichever endpoint, or anything with its
                `chat.completions.create`.
            gradient_model: The model that criticises prompts.
            apply_edit_model: The model that edits prompts.
            diversity_temperature: The temperature of both.
            gradient_batch_size: Rollouts that one critique is based on.
            val_batch_size: Rollouts that each prompt is compared by in a round.
            beam_width: Prompts that survive a round, and prompts that are edited in one: where the beam holds fewer,
                they are edited several times.
            branch_factor: Edits of each.
            beam_rounds: Rounds.
            rollout_batch_timeout: Seconds to wait for one more rollout to finish; then those that are left are
                cancelled and count as failed.
            run_initial_validation: Whether to judge the first prompt on all validation tasks before the first round.
            seed: Makes the choice of tasks and instructions repeatable; models and agents may still vary.

        Raises:
            ValueError: A size is below 1, or the timeout is not above 0.
        """
        if not rollout_batch_timeout > 0:
            raise ValueError(f"rollout_batch_timeout must be above 0 seconds, not {rollout_batch_timeout}")
        super().__init__()
        self._client = async_openai_client
        self._critic_model = gradient_model
        self._editor_model = apply_edit_model
        self._temperature = diversity_temperature
        self._patience = rollout_batch_timeout
        self._settings = SearchSettings(
            gradient_batch_size=gradient_batch_size,
            val_batch_size=val_batch_size,
            beam_width=beam_width,
            branch_factor=branch_factor,
            beam_rounds=beam_rounds,
            run_initial_validation=run_initial_validation,
            seed=seed,
        )
        self._search: Search | None = None

    @property
    def history(self) -> Sequence[BeamRound]:
        """The rounds of the latest run so far."""
        return tuple(self._search.rounds) if self._search else ()

    def get_best_prompt(self) -> PromptTemplate:
        """Returns the best prompt of the latest run so far.

        Raises:
            ValueError: No prompt has been judged on all validation tasks yet.
        """
        return self._best().candidate.prompt

    def get_best_score(self) -> float:
        """Returns the mean reward of the best prompt on all validation tasks.

        Raises:
            ValueError: No prompt has been judged on all validation tasks yet.
        """
        return self._best().score

    async def run(self, train_dataset: Dataset[T] | None = None, val_dataset: Dataset[T] | None = None) -> None:
        """Searches.

        Args:
            train_dataset: The tasks that critiques are based on.
            val_dataset: The tasks that prompts are compared and judged by.

        Raises:
            TypeError: A dataset is none, such as a generator.
            ValueError: A dataset is missing or empty, or the initial resources do not hold exactly one prompt template.
            RuntimeError: No rollout reported a reward, or a round brought forth no new prompt because the language
                models failed.
        """
        if train_dataset is not None and val_dataset is not None:
            expect_dataset("train_dataset", train_dataset)
            expect_dataset("val_dataset", val_dataset)
        if train_dataset is None or val_dataset is None or not (len(train_dataset) and len(val_dataset)):
            raise ValueError("APO needs a train_dataset to criticise prompts by and a val_dataset to compare them by")
        resources = self.get_initial_resources() or {}
        name, prompt = _only_prompt(resources)
        editor = PromptEditor(
            self._client,
            critic_model=self._critic_model,
            editor_model=self._editor_model,
            temperature=self._temperature,
            names=_names_to_keep(prompt),
        )
        trials = Trials(self.get_store(), self._message_adapter(), resources, name, self._patience)
        self._search = Search(self._settings, editor, trials, train_dataset, val_dataset)
        await self._search.run(prompt)

    def _best(self) -> Judged:
        if self._search is None or self._search.best is None:
            raise ValueError("there is no best prompt yet: none has been judged on all validation tasks")
        return self._search.best

    def _message_adapter(self) -> TraceToMessages:
        from agentlightning.adapter.messages import TraceToMessages

        try:
            adapter = self.get_adapter()
        except ValueError:
            adapter = None
        return adapter if isinstance(adapter, TraceToMessages) else TraceToMessages()


def _only_prompt(resources: NamedResources) -> tuple[str, PromptTemplate]:
    prompts = {name: resource for name, resource in resources.items() if isinstance(resource, PromptTemplate)}
    if len(prompts) != 1:
        raise ValueError(
            "APO improves the one PromptTemplate among the trainer's initial_resources, and there are "
            f"{len(prompts)} of them" + (f": {', '.join(prompts)}" if prompts else "")
        )
    return next(iter(prompts.items()))


def _names_to_keep(prompt: PromptTemplate) -> frozenset[str] | None:
    try:
        return find_placeholders(prompt)
    except ValueError as error:
        logger.warning("edits may change the blanks of the prompt, which is no template that can be filled: %s", error)
        return None

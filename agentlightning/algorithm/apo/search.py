"""The search itself: rounds of editing and comparing prompts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from agentlightning.algorithm.apo.candidates import BeamRound, Candidate
from agentlightning.algorithm.apo.editor import PromptEditor
from agentlightning.algorithm.apo.instructions import CRITIQUE_FOCUSES, EDIT_STYLES
from agentlightning.algorithm.apo.trials import Trials, mean_score
from agentlightning.algorithm.utils import batch_iter_over_dataset
from agentlightning.types import Dataset, PromptTemplate

logger = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How wide and how long to search; see `APO`.

    Raises:
        ValueError: A size is below 1.
    """

    gradient_batch_size: int
    val_batch_size: int
    beam_width: int
    branch_factor: int
    beam_rounds: int
    run_initial_validation: bool
    seed: int | None

    def __post_init__(self) -> None:
        for name in ("gradient_batch_size", "val_batch_size", "beam_width", "branch_factor", "beam_rounds"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")


class Judged(NamedTuple):
    """A candidate with its mean reward on some tasks."""

    candidate: Candidate
    score: float


class _Edit(NamedTuple):
    critique: str
    prompt: PromptTemplate


class _Plan(NamedTuple):
    """One edit that is to be made. All chance is in here, so that it does not depend on what is done first."""

    parent: Candidate
    tasks: Sequence[Any]
    focus: str
    style: str


class Search:
    """A search; see `APO` for its course.

    Attributes:
        rounds: The rounds that are over.
        best: The best prompt so far, with its score on all validation tasks; None while none has been judged by them.
    """

    rounds: list[BeamRound]
    best: Judged | None

    def __init__(
        self,
        settings: SearchSettings,
        editor: PromptEditor,
        trials: Trials,
        train_dataset: Dataset[Any],
        val_dataset: Dataset[Any],
    ) -> None:
        """Prepares the search.

        Args:
            settings: How wide and how long to search.
            editor: Makes new prompts of old ones.
            trials: Tries prompts.
            train_dataset: The tasks that critiques are based on.
            val_dataset: The tasks that prompts are compared and judged by.

        Raises:
            ValueError: A dataset is empty.
        """
        self.rounds = []
        self.best = None
        self._settings = settings
        self._editor = editor
        self._trials = trials
        self._val_tasks = [val_dataset[index] for index in range(len(val_dataset))]
        self._random = random.Random(settings.seed)
        self._train_batches = batch_iter_over_dataset(
            train_dataset, settings.gradient_batch_size, seed=self._random.getrandbits(32)
        )
        self._val_batches = batch_iter_over_dataset(
            val_dataset, settings.val_batch_size, seed=self._random.getrandbits(32)
        )
        self._known: set[str] = set()
        self._judged: dict[str, Judged] = {}

    async def run(self, prompt: PromptTemplate) -> None:
        """Searches from `prompt` on, and publishes the best.

        Raises:
            RuntimeError: No rollout reported a reward, or no edit of a round could be made.
        """
        beam = [await self._admit(prompt)]
        if self._settings.run_initial_validation:
            await self._judge(beam[0])
            self._trials.expect_rewards()
        for number in range(1, self._settings.beam_rounds + 1):
            logger.info("round %d of %d: %d prompts in the beam", number, self._settings.beam_rounds, len(beam))
            ranked = await self._compare([*beam, *await self._edits(beam)])
            self._trials.expect_rewards()
            beam = [judged.candidate for judged in ranked[: self._settings.beam_width]]
            best = await self._judge(beam[0])
            scores = {judged.candidate.version: judged.score for judged in ranked}
            self.rounds.append(BeamRound(number, scores, tuple(beam), best.candidate, best.score))
            logger.info("after round %d the best prompt is %s: %.3f", number, best.candidate.version, best.score)
        await self._trials.publish(self.rounds[-1].best)

    async def _admit(
        self, prompt: PromptTemplate, parent: Candidate | None = None, critique: str | None = None
    ) -> Candidate:
        candidate = Candidate(f"v{len(self._known)}", prompt, parent.version if parent else None, critique)
        self._known.add(prompt.template)
        await self._trials.publish(candidate)
        return candidate

    async def _edits(self, beam: Sequence[Candidate]) -> list[Candidate]:
        plans = list(self._plans(beam))
        outcomes = await _all(self._edit(plan) for plan in plans)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if len(failures) == len(plans):
            raise RuntimeError(
                f"none of the {len(plans)} edits of this round could be made; the first failed with: {failures[0]}"
            ) from failures[0]
        admitted = []
        for plan, outcome in zip(plans, outcomes, strict=True):
            if isinstance(outcome, _Edit) and outcome.prompt.template not in self._known:
                admitted.append(await self._admit(outcome.prompt, plan.parent, outcome.critique))
        logger.info("%d new prompts of %d edits, %d of which failed", len(admitted), len(plans), len(failures))
        return admitted

    def _plans(self, beam: Sequence[Candidate]) -> Iterator[_Plan]:
        for place in range(self._settings.beam_width):
            for _ in range(self._settings.branch_factor):
                yield _Plan(
                    parent=beam[place % len(beam)],
                    tasks=next(self._train_batches),
                    focus=self._random.choice(CRITIQUE_FOCUSES),
                    style=self._random.choice(EDIT_STYLES),
                )

    async def _edit(self, plan: _Plan) -> _Edit | Exception:
        trials = await self._trials.run(plan.parent, plan.tasks, "train", with_conversations=True)
        prompt = plan.parent.prompt
        try:
            critique = await self._editor.criticise(prompt, trials, plan.focus)
            return _Edit(critique, await self._editor.edit(prompt, critique, plan.style))
        except Exception as error:  # noqa: BLE001  of a client of the user's choice; one edit less is no disaster
            logger.warning("an edit of prompt %s is left out: %s", plan.parent.version, error)
            return error

    async def _compare(self, candidates: Sequence[Candidate]) -> list[Judged]:
        tasks = next(self._val_batches)
        trials = await _all(self._trials.run(candidate, tasks, "val") for candidate in candidates)
        judged = [Judged(each, mean_score(tried)) for each, tried in zip(candidates, trials, strict=True)]
        return sorted(judged, key=lambda each: each.score, reverse=True)

    async def _judge(self, candidate: Candidate) -> Judged:
        if candidate.version not in self._judged:
            self._judged[candidate.version] = Judged(
                candidate, mean_score(await self._trials.run(candidate, self._val_tasks, "val"))
            )
        self.best = max(self._judged.values(), key=lambda each: each.score)
        return self.best


async def _all(coroutines: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Returns what they return; when one raises, the others are cancelled first."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

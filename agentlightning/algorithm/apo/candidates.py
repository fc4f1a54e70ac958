"""Prompts on their way through the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentlightning.types import PromptTemplate


@dataclass(frozen=True)
class Candidate:
    """A prompt, and how it came about."""

    version: str
    """`v0` for the prompt that the search began with, then `v1`, `v2`, ..."""
    prompt: PromptTemplate
    """The prompt itself."""
    parent: str | None = None
    """The version that it was edited from; None for the first."""
    critique: str | None = None
    """What was to be changed about the parent; None for the first."""


@dataclass(frozen=True)
class BeamRound:
    """What one round of the search found."""

    number: int
    """1 for the first round."""
    scores: Mapping[str, float]
    """Mean reward on the round's tasks, by version, of all that were compared; the best first."""
    beam: tuple[Candidate, ...]
    """Those that went on to the next round, the best first."""
    best: Candidate
    """The best prompt so far, this round or earlier."""
    best_score: float
    """Its mean reward on all validation tasks."""

"""Algorithms: what enqueues rollouts, learns from their spans, and publishes better resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.decorator import FunctionalAlgorithm, algo
from agentlightning.algorithm.fast import Baseline, FastAlgorithm

if TYPE_CHECKING:
    from agentlightning.algorithm.apo import APO
    from agentlightning.algorithm.grpo import GRPO
    from agentlightning.algorithm.verl import VERL

__all__ = ["APO", "GRPO", "VERL", "Algorithm", "Baseline", "FastAlgorithm", "FunctionalAlgorithm", "algo"]


def __getattr__(name: str) -> Any:
    # Loaded when it is first used: runner processes import this package and have no use for it.
    if name == "APO":
        from agentlightning.algorithm.apo import APO

        return APO
    if name == "GRPO":
        from agentlightning.algorithm.grpo import GRPO

        return GRPO
    if name == "VERL":
        from agentlightning.algorithm.verl import VERL

        return VERL
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

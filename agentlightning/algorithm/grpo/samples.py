"""What finished rollouts teach: token sequences, which of their tokens the policy chose, and what each was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Literal

from agentlightning.algorithm.policies.calls import JoinedCalls, ModelCall, join_calls

Aggregation = Literal["token", "rollout"]


@dataclass(frozen=True)
class Episode:
    """A finished rollout: the calls of the policy and what they earned together."""

    rollout_id: str
    """The rollout."""
    reward: float
    """Its final reward."""
    calls: Sequence[ModelCall]
    """The calls, in the order in which they were made."""


@dataclass(frozen=True)
class Sample:
    """A sequence to train on. The tokens after the prompt are chosen ones and, in between, what an environment said."""

    prompt: Sequence[int]
    """Token ids before the first that was chosen."""
    completion: Sequence[int]
    """Token ids from there on."""
    chosen: Sequence[bool]
    """Which tokens of the completion the policy chose."""
    logprobs: Sequence[float]
    """For each token of the completion its log-probability when it was chosen; 0 where it was not."""
    temperature: float
    """What the logits were divided by."""
    advantage: float
    """How much better than its group the rollout did."""
    weight: float
    """What each chosen token counts in the loss. All of a step together count 1."""


def advantages(rewards: Sequence[float], *, scaled: bool) -> list[float]:
    """Returns for each rollout of a group how much better than the group it did.

    Args:
        rewards: What each rollout earned.
        scaled: Whether to divide by the standard deviation of the group, so that every group counts alike.
    """
    mean = fmean(rewards)
    spread = pstdev(rewards, mean) if scaled else 1.0
    # Rounding leaves a spread of equal rewards that is not quite 0.
    return [(reward - mean) / spread if spread > 1e-8 else 0.0 for reward in rewards]


def samples_of(
    groups: Sequence[Sequence[Episode]], *, scale_advantages: bool, aggregation: Aggregation, keep_even: bool
) -> list[Sample]:
    """Returns what a step trains on.

    Args:
        groups: The finished rollouts, those of one task together.
        scale_advantages: See `advantages`.
        aggregation: Whether every chosen token counts alike, or every rollout.
        keep_even: Whether to keep rollouts of advantage 0. They matter for a KL term only, but always count in the
            weights, so that a step in which few groups differ is a small one.
    """
    parts: list[tuple[int, float, list[JoinedCalls]]] = []
    for group in groups:
        worth = advantages([episode.reward for episode in group], scaled=scale_advantages) if group else []
        for episode, advantage in zip(group, worth, strict=True):
            joined = join_calls(episode.calls)
            parts.append((sum(sum(each.chosen) for each in joined), advantage, joined))
    tokens = sum(count for count, _, _ in parts)
    return [
        Sample(
            prompt=each.prompt,
            completion=each.completion,
            chosen=each.chosen,
            logprobs=each.logprobs,
            temperature=each.temperature,
            advantage=advantage,
            weight=1 / tokens if aggregation == "token" else 1 / (len(parts) * count),
        )
        for count, advantage, joined in parts
        if advantage or keep_even
        for each in joined
    ]

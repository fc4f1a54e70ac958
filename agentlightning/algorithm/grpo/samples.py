"""What finished rollouts teach: token sequences, which of their tokens the policy chose, and what each was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Literal

from agentlightning.types import Triplet

Aggregation = Literal["token", "rollout"]


@dataclass(frozen=True)
class ModelCall:
    """One call of the policy, as the gateway recorded it."""

    prompt: Sequence[int]
    """Token ids of the prompt."""
    response: Sequence[int]
    """Token ids that the policy chose."""
    logprobs: Sequence[float]
    """For each of them the log-probability with which it was chosen, at `temperature`."""
    temperature: float
    """What the logits were divided by."""
    model_version: str = ""
    """The weights that chose."""


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


class UnusableSpans(ValueError):
    """The spans of a rollout hold no model call that can be trained on; the message says why."""


def read_calls(triplets: Sequence[Triplet], default_temperature: float) -> list[ModelCall]:
    """Returns the model calls among the triplets of a rollout that have all that training needs.

    Args:
        triplets: What `LlmProxyTraceToTriplet` made of the spans.
        default_temperature: The temperature of calls that asked for none.

    Raises:
        UnusableSpans: There is none.
    """
    calls = []
    for triplet in triplets:
        request = triplet.metadata.get("request") or {}
        logprobs = [token["logprob"] for token in triplet.response.get("logprobs") or ()]
        # A greedy call reports log-probabilities of the distribution itself.
        temperature = float(request.get("temperature", default_temperature)) or 1.0
        response = triplet.response["token_ids"]
        if response and len(logprobs) == len(response):
            version = (triplet.metadata.get("response") or {}).get("model_version", "")
            calls.append(ModelCall(triplet.prompt["token_ids"], response, logprobs, temperature, version))
    if calls:
        return calls
    if triplets:
        raise UnusableSpans(
            f"none of {len(triplets)} model calls has a log-probability for each token: the backend of the gateway "
            "must return them"
        )
    raise UnusableSpans("no model call with token ids: the agent must call the model at the endpoint of its `llm`")


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
    parts: list[tuple[int, float, list[_Joined]]] = []
    for group in groups:
        worth = advantages([episode.reward for episode in group], scaled=scale_advantages) if group else []
        for episode, advantage in zip(group, worth, strict=True):
            joined = _join(episode.calls)
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


class _Joined:
    """Model calls that go on from each other, as one sequence."""

    def __init__(self, call: ModelCall) -> None:
        self.prompt = list(call.prompt)
        self.temperature = call.temperature
        self.completion: list[int] = []
        self.chosen: list[bool] = []
        self.logprobs: list[float] = []
        self._add_response(call)

    def takes(self, call: ModelCall) -> bool:
        """Adds a call whose prompt begins with all that is here; returns whether it did."""
        known = [*self.prompt, *self.completion]
        if call.temperature != self.temperature or list(call.prompt[: len(known)]) != known:
            return False
        between = call.prompt[len(known) :]
        self.completion += between
        self.chosen += [False] * len(between)
        self.logprobs += [0.0] * len(between)
        self._add_response(call)
        return True

    def _add_response(self, call: ModelCall) -> None:
        self.completion += call.response
        self.chosen += [True] * len(call.response)
        self.logprobs += call.logprobs


def _join(calls: Sequence[ModelCall]) -> list[_Joined]:
    """Joins calls that go on from each other, so that what they share is computed once."""
    joined: list[_Joined] = []
    for call in calls:
        if not any(each.takes(call) for each in joined):
            joined.append(_Joined(call))
    return joined

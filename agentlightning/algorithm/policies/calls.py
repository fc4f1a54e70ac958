"""Calls of a policy as the gateway recorded them, and what they make when they go on from each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from agentlightning.types import AttemptedRollout, Rollout, Triplet

LLM_RESOURCE: Final = "main_llm"
"""The name of the resource that agents find the policy in."""


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


class UnusableSpans(ValueError):
    """The spans of a rollout hold no model call that can be trained on; the message says why."""


def read_calls(triplets: Sequence[Triplet], default_temperature: float, models: Collection[str]) -> list[ModelCall]:
    """Returns the calls of the policy among the triplets of a rollout that have all that training needs.

    Args:
        triplets: What `LlmProxyTraceToTriplet` made of the spans.
        default_temperature: The temperature of calls that asked for none.
        models: The names by which agents call the policy. Calls of other models, such as a judge, do not train.

    Raises:
        UnusableSpans: There is none.
    """
    calls = []
    own = [each for each in triplets if (each.metadata.get("request") or {}).get("model") in models]
    for triplet in own:
        request = triplet.metadata["request"]
        logprobs = [token["logprob"] for token in triplet.response.get("logprobs") or ()]
        # A greedy call reports log-probabilities of the distribution itself.
        temperature = float(request.get("temperature", default_temperature)) or 1.0
        response = triplet.response["token_ids"]
        if response and len(logprobs) == len(response):
            version = (triplet.metadata.get("response") or {}).get("model_version", "")
            calls.append(ModelCall(triplet.prompt["token_ids"], response, logprobs, temperature, version))
    if calls:
        return calls
    if own:
        raise UnusableSpans(
            f"none of {len(own)} model calls has a log-probability for each token: the backend of the gateway "
            "must return them"
        )
    if triplets:
        raise UnusableSpans(
            f"all of {len(triplets)} model calls are of other models than {', '.join(models)}: the agent must call the "
            "model that its `llm` names"
        )
    raise UnusableSpans("no model call with token ids: the agent must call the model at the endpoint of its `llm`")


class JoinedCalls:
    """Model calls that go on from each other, as one sequence.

    Attributes:
        prompt: Token ids before the first that was chosen.
        completion: Token ids from there on.
        chosen: Which tokens of the completion the policy chose; in between stands what an environment said.
        logprobs: For each token of the completion its log-probability when it was chosen; 0 where it was not.
        temperature: What the logits were divided by.
    """

    def __init__(self, call: ModelCall) -> None:
        """Begins with a call."""
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


def join_calls(calls: Sequence[ModelCall]) -> list[JoinedCalls]:
    """Joins calls that go on from each other, so that what they share is computed once."""
    joined: list[JoinedCalls] = []
    for call in calls:
        if not any(each.takes(call) for each in joined):
            joined.append(JoinedCalls(call))
    return joined


def why_without_reward(rollout: Rollout) -> str:
    """Returns why a rollout that has finished earned nothing."""
    if rollout.status == "succeeded":
        return "no reward: the agent neither returned one nor called emit_reward"
    failure = rollout.attempt.failure if isinstance(rollout, AttemptedRollout) else None
    return f"{rollout.status}: {failure.message if failure and failure.message else 'no reason was reported'}"

"""Rewards: writing them into a trace, and finding them in one, whichever release wrote it."""

from __future__ import annotations

import functools
import json
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from agentlightning.emitter.emission import emit_span
from agentlightning.semconv import (
    AGL_ANNOTATION,
    AGL_REWARD,
    LightningSpanAttributes,
    RewardAttributes,
    RewardPydanticModel,
)
from agentlightning.types import Attributes, SpanCoreFields, SpanLike
from agentlightning.utils.callables import is_coroutine_callable

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=SpanLike)

PRIMARY = "primary"
"""Name of the dimension of a reward that is a plain number."""

_PREFIX = LightningSpanAttributes.REWARD.value
_NAME = RewardAttributes.REWARD_NAME.value
_VALUE = RewardAttributes.REWARD_VALUE.value
_AGENTOPS_KEYS = ("agentops.task.output", "agentops.entity.output")


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Puts a reward into the trace of the rollout that is running.

    Args:
        reward: A number, or several numbers by name.
        primary_key: Which of several names is the one to train on.
        attributes: What else to note on the span; nested values are flattened with dots.
        propagate: Hand the span to the active tracer. Without it the span is only returned.

    Returns:
        The span, without the ids that its trace gives it.

    Raises:
        TypeError: The reward, or one of them, is not a number.
        ValueError: Several rewards and no `primary_key` among their names.
        RuntimeError: There is no active tracer to hand the span to.
    """
    return emit_span(
        AGL_ANNOTATION, _reward_attributes(_dimensions(reward, primary_key)), attributes, propagate=propagate
    )


def reward(fn: F) -> F:
    """Has a plain or async function emit what it returns as a reward, unless that is None.

    Deprecated: call `emit_reward` where the reward is known.

    Raises:
        TypeError: On a call: the function returned something that is neither a number nor None.
        RuntimeError: On a call: there is no active tracer to hand the reward to.
    """
    warnings.warn("@reward is deprecated; call emit_reward(value) instead", DeprecationWarning, stacklevel=2)

    def emitted(value: Any) -> Any:
        if value is not None:
            emit_reward(value)
        return value

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return emitted(await fn(*args, **kwargs))

    def call(*args: Any, **kwargs: Any) -> Any:
        return emitted(fn(*args, **kwargs))

    return cast("F", functools.wraps(fn)(call_async if is_coroutine_callable(fn) else call))


def get_rewards_from_span(span: SpanLike) -> list[RewardPydanticModel]:
    """Returns the dimensions of the reward that a span carries, the primary one first; empty if it carries none.

    Reads the numbered attributes of release 0.3, the `reward` attribute of release 0.2, and rewards recorded by the
    AgentOps SDK.
    """
    attributes = span.attributes or {}
    legacy = _agentops_reward(attributes)
    if legacy is None and span.name == AGL_REWARD:
        legacy = _as_number(attributes.get("reward"))
    if legacy is not None:
        return [RewardPydanticModel(name=PRIMARY, value=legacy)]
    rewards: list[RewardPydanticModel] = []
    while (value := _as_number(attributes.get(f"{_PREFIX}.{len(rewards)}.{_VALUE}"))) is not None:
        name = attributes.get(f"{_PREFIX}.{len(rewards)}.{_NAME}")
        rewards.append(RewardPydanticModel(name=str(name) if name is not None else PRIMARY, value=value))
    return rewards


def get_reward_value(span: SpanLike) -> float | None:
    """Returns the reward that a span carries, the primary one of several; None if it carries none."""
    rewards = get_rewards_from_span(span)
    return rewards[0].value if rewards else None


def is_reward_span(span: SpanLike) -> bool:
    """Returns whether a span carries a reward."""
    return get_reward_value(span) is not None


def find_reward_spans(spans: Sequence[S]) -> list[S]:
    """Returns the spans that carry a reward, in the order given."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[SpanLike]) -> float | None:
    """Returns the reward of the last span that carries one; None if none does.

    Args:
        spans: The spans of one attempt, in their order.
    """
    for span in reversed(spans):
        reward = get_reward_value(span)
        if reward is not None:
            return reward
    return None


def _dimensions(reward: float | Mapping[str, float], primary_key: str | None) -> dict[str, float]:
    if not isinstance(reward, Mapping):
        return {PRIMARY: _number(reward, "reward")}
    if primary_key is None:
        raise ValueError(f"a reward with several values needs a primary_key, one of {sorted(reward)}")
    if primary_key not in reward:
        raise ValueError(f"primary_key {primary_key!r} is not among the rewards {sorted(reward)}")
    ordered = {primary_key: reward[primary_key], **reward}
    return {name: _number(value, f"reward {name!r}") for name, value in ordered.items()}


def _number(value: object, what: str) -> float:
    # numbers.Real covers the scalars of numpy and the like, and bool.
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}")
    return float(value)


def _reward_attributes(dimensions: Mapping[str, float]) -> Attributes:
    attributes: Attributes = {}
    for index, (name, value) in enumerate(dimensions.items()):
        attributes[f"{_PREFIX}.{index}.{_NAME}"] = name
        attributes[f"{_PREFIX}.{index}.{_VALUE}"] = value
    return attributes


def _agentops_reward(attributes: Mapping[str, Any]) -> float | None:
    for key in _AGENTOPS_KEYS:
        output = attributes.get(key)
        if isinstance(output, str):
            try:
                output = json.loads(output)
            except ValueError:
                continue
        if isinstance(output, Mapping) and output.get("type") == "reward":
            value = _as_number(output.get("value"))
            if value is not None:
                return value
    return None


def _as_number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None

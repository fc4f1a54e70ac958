"""What an agent returned, as spans of its attempt."""

from __future__ import annotations

import logging
import numbers
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeGuard

from agentlightning.emitter.object import emit_object
from agentlightning.emitter.reward import emit_reward
from agentlightning.types import AttemptedRollout, Span, SpanCoreFields

logger = logging.getLogger(__name__)


def spans_of_result(result: object, rollout: AttemptedRollout, trace_id: str | None) -> list[Span]:
    """Turns the result of an agent into spans.

    Args:
        result: None for an agent that emitted what it had to say, a number for its reward, or a list of spans, which
            may be of the kinds `Span`, `SpanCoreFields` or OpenTelemetry's `ReadableSpan` but not of several. Anything
            else is kept as an object; what JSON cannot express, as the text that describes it.
        rollout: What the agent worked on.
        trace_id: Trace to put a reward or an object into; None for one of its own.

    Raises:
        TypeError: The result is a coroutine or generator: the agent's code has not run.
        ValueError: The list mixes kinds, or holds a span of another attempt.
    """
    if result is None:
        return []
    if isinstance(result, (CoroutineType, GeneratorType, AsyncGeneratorType)):
        if isinstance(result, CoroutineType):
            result.close()  # Python would warn about it with less to say
        raise TypeError(
            f"the agent returned a {type(result).__name__}, and its code has not run: write an async agent as "
            "`async def rollout_async`, and a decorated function as `async def`; an agent cannot yield"
        )
    if _is_span_list(result):
        return _of_list(result, rollout, trace_id)
    reward = _number(result)
    core = _emit_object(result) if reward is None else emit_reward(reward, propagate=False)
    return [_of_core(core, rollout, trace_id)]


def is_object(result: object) -> bool:
    """Returns whether a result is neither None nor a number nor spans, and says nothing of a reward by itself."""
    return not (result is None or _is_span_list(result)) and _number(result) is None


def _number(result: object) -> float | None:
    # A tensor or array without dimensions stands for its number; so do booleans of numpy, which are no numbers.Real.
    if not isinstance(result, numbers.Real) and getattr(result, "ndim", None) == 0 and hasattr(result, "item"):
        result = result.item()
    return float(result) if isinstance(result, numbers.Real) else None


def _emit_object(result: object) -> SpanCoreFields:
    try:
        return emit_object(result, propagate=False)
    except Exception:  # noqa: BLE001 - serialisers run code of the object's own
        return emit_object(_description(result), propagate=False)


def _description(result: object) -> str:
    try:
        return repr(result)
    except Exception:  # noqa: BLE001 - as above
        return object.__repr__(result)


def _is_span_list(result: object) -> TypeGuard[list[Any]]:
    """Returns whether `result` is a list that is empty or holds spans."""
    return isinstance(result, list) and (not result or any(isinstance(item, _span_types()) for item in result))


def _span_types() -> tuple[type[Any], ...]:
    from opentelemetry.sdk.trace import ReadableSpan

    return Span, SpanCoreFields, ReadableSpan


def _of_list(result: list[Any], rollout: AttemptedRollout, trace_id: str | None) -> list[Span]:
    if not result:
        logger.warning("rollout %s returned an empty list; return None if there is nothing to say", rollout.rollout_id)
    if not any(all(isinstance(item, kind) for item in result) for kind in _span_types()):
        kinds = sorted({type(item).__name__ for item in result})
        raise ValueError(f"the agent returned a list that mixes {', '.join(kinds)}; return spans of one kind")
    return [_of_item(item, rollout, trace_id) for item in result]


def _of_item(item: Any, rollout: AttemptedRollout, trace_id: str | None) -> Span:
    if isinstance(item, Span):
        return _filed(item, rollout)
    if isinstance(item, SpanCoreFields):
        return _of_core(item, rollout, trace_id)
    return Span.from_opentelemetry(item, rollout.rollout_id, rollout.attempt.attempt_id, 0)


def _of_core(core: SpanCoreFields, rollout: AttemptedRollout, trace_id: str | None) -> Span:
    return Span.from_attributes(
        attributes=core.attributes,
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        name=core.name,
        trace_id=trace_id,
        start_time=core.start_time,
        end_time=core.end_time,
        status=core.status,
    )


def _filed(span: Span, rollout: AttemptedRollout) -> Span:
    here = (rollout.rollout_id, rollout.attempt.attempt_id)
    if (span.rollout_id or here[0], span.attempt_id or here[1]) != here:
        raise ValueError(
            f"the agent returned span {span.name!r} of rollout {span.rollout_id}, attempt {span.attempt_id}, "
            f"while it worked on rollout {here[0]}, attempt {here[1]}"
        )
    return span.model_copy(update={"rollout_id": here[0], "attempt_id": here[1]})

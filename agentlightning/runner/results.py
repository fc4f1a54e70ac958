"""What an agent returned, as spans of its attempt."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Callable
from typing import Any

from agentlightning.emitter.reward import emit_reward
from agentlightning.types import AttemptedRollout, Span, SpanCoreFields

logger = logging.getLogger(__name__)


def spans_of_result(result: object, rollout: AttemptedRollout, trace_id: str | None) -> list[Span]:
    """Turns the result of an agent into spans.

    Args:
        result: None for an agent that emitted what it had to say, a number for its reward, or a list of spans, which
            may be of the kinds `Span`, `SpanCoreFields` or OpenTelemetry's `ReadableSpan` but not of several.
        rollout: What the agent worked on.
        trace_id: Trace to put a reward into; None for one of its own.

    Raises:
        TypeError: The result is none of these.
        ValueError: The list mixes kinds, or holds a span of another attempt.
    """
    if result is None:
        return []
    if isinstance(result, numbers.Real):
        core = emit_reward(float(result), propagate=False)
        return [_of_core(core, rollout, trace_id)]
    if isinstance(result, list):
        return _of_list(result, rollout, trace_id)
    raise TypeError(
        f"the agent returned a {type(result).__name__}; it may return None, a number (its reward) or a list of spans"
    )


def _of_list(result: list[Any], rollout: AttemptedRollout, trace_id: str | None) -> list[Span]:
    if not result:
        logger.warning("rollout %s returned an empty list; return None if there is nothing to say", rollout.rollout_id)
        return []
    for kind, convert in _converters(rollout, trace_id):
        matching = sum(isinstance(item, kind) for item in result)
        if matching == len(result):
            return [convert(item) for item in result]
        if matching:
            kinds = sorted({type(item).__name__ for item in result})
            raise ValueError(f"the agent returned a list that mixes {', '.join(kinds)}; return spans of one kind")
    raise TypeError(f"the agent returned a list of {type(result[0]).__name__}; a list must hold spans")


def _converters(rollout: AttemptedRollout, trace_id: str | None) -> list[tuple[type[Any], Callable[[Any], Span]]]:
    from opentelemetry.sdk.trace import ReadableSpan

    attempt_id = rollout.attempt.attempt_id
    return [
        (Span, lambda span: _filed(span, rollout)),
        (SpanCoreFields, lambda core: _of_core(core, rollout, trace_id)),
        (ReadableSpan, lambda span: Span.from_opentelemetry(span, rollout.rollout_id, attempt_id, 0)),
    ]


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

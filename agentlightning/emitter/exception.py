"""Exceptions: putting one that the agent survived into a trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.emitter.emission import emit_span
from agentlightning.semconv import AGL_EXCEPTION
from agentlightning.types import SpanCoreFields, TraceStatus
from agentlightning.utils.otel import format_exception_attributes


def emit_exception(
    exception: BaseException, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> SpanCoreFields:
    """Puts an exception into the trace of the rollout that is running: its type, message and stack trace.

    The span has the status ERROR; the rollout goes on.

    Args:
        exception: What was caught.
        attributes: What else to note on the span; nested values are flattened with dots.
        propagate: Hand the span to the active tracer. Without it the span is only returned.

    Returns:
        The span, without the ids that its trace gives it.

    Raises:
        TypeError: That is no exception.
        RuntimeError: There is no active tracer to hand the span to.
    """
    if not isinstance(exception, BaseException):
        raise TypeError(f"an exception must be given, not a {type(exception).__name__}")
    return emit_span(
        AGL_EXCEPTION,
        format_exception_attributes(exception),
        attributes,
        status=TraceStatus(status_code="ERROR", description=f"{type(exception).__name__}: {exception}"),
        propagate=propagate,
    )

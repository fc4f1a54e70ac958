"""The one way in which emitters make a span."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var
from agentlightning.tracer.active import require_active_tracer
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.dummy import DummyTracer
from agentlightning.types import SpanCoreFields, TraceStatus
from agentlightning.utils.attributes import flatten_attributes, sanitize_attributes

logger = logging.getLogger(__name__)

_NOBODY = DummyTracer()


def emit_span(
    name: str,
    attributes: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    *,
    status: TraceStatus | None = None,
    propagate: bool,
) -> SpanCoreFields:
    """Makes a span without duration.

    Args:
        name: What the span is called.
        attributes: What it carries, flat.
        more: What the user notes on it; nested values are flattened with dots.
        status: How it went; OK unless given.
        propagate: Hand the span to the active tracer. Without it the span is only returned.

    Returns:
        The span, without the ids that its trace gives it.

    Raises:
        RuntimeError: There is no active tracer to hand the span to.
    """
    sane = sanitize_attributes({**attributes, **flatten_attributes(more or {})})
    span = recorder(propagate).create_span(name, attributes=sane, status=status)
    log_if_debugging(span)
    return span


def recorder(propagate: bool) -> Tracer:
    """Returns the active tracer, or one whose spans go nowhere.

    Raises:
        RuntimeError: There is no active tracer though the span is to be handed to one.
    """
    return require_active_tracer() if propagate else _NOBODY


def log_if_debugging(span: SpanCoreFields) -> None:
    """Logs a finished span if `AGL_EMITTER_DEBUG` asks for it."""
    if resolve_bool_env_var(LightningEnvVar.AGL_EMITTER_DEBUG, fallback=False):
        logger.info("emitted %s (%s): %s", span.name, span.status.status_code, span.attributes)

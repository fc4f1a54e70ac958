"""Tracers: what records the spans of a rollout while its agent runs."""

from __future__ import annotations

from agentlightning.tracer.active import clear_active_tracer, get_active_tracer, set_active_tracer
from agentlightning.tracer.agentops import AgentOpsTracer
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.dummy import DummyTracer
from agentlightning.tracer.otel import OtelTracer

__all__ = [
    "AgentOpsTracer",
    "DummyTracer",
    "OtelTracer",
    "Tracer",
    "clear_active_tracer",
    "get_active_tracer",
    "set_active_tracer",
]

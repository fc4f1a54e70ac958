"""Adapters: what turns the spans of an attempt into what an algorithm learns from."""

from __future__ import annotations

from agentlightning.adapter.base import Adapter, OtelTraceAdapter, TraceAdapter, TraceToTripletBase
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.adapter.triplet import LlmProxyTraceToTriplet, TracerTraceToTriplet

__all__ = [
    "Adapter",
    "LlmProxyTraceToTriplet",
    "OtelTraceAdapter",
    "TraceAdapter",
    "TraceToMessages",
    "TraceToTripletBase",
    "TracerTraceToTriplet",
]

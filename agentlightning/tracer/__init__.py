"""Tracers: what records the spans of a rollout while its agent runs.

What is named here is loaded when it is first used: emitters and adapters need no OpenTelemetry SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.tracer.active import clear_active_tracer as clear_active_tracer
    from agentlightning.tracer.active import get_active_tracer as get_active_tracer
    from agentlightning.tracer.active import set_active_tracer as set_active_tracer
    from agentlightning.tracer.agentops import AgentOpsTracer as AgentOpsTracer
    from agentlightning.tracer.base import Tracer as Tracer
    from agentlightning.tracer.dummy import DummyTracer as DummyTracer
    from agentlightning.tracer.otel import OtelTracer as OtelTracer
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "agentlightning.tracer.active": ("clear_active_tracer", "get_active_tracer", "set_active_tracer"),
            "agentlightning.tracer.agentops": ("AgentOpsTracer",),
            "agentlightning.tracer.base": ("Tracer",),
            "agentlightning.tracer.dummy": ("DummyTracer",),
            "agentlightning.tracer.otel": ("OtelTracer",),
        },
    )

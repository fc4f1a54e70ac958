"""Has the model calls that agents make recorded as spans, by the instrumentations that are installed."""

from __future__ import annotations

from agentlightning.instrumentation.libraries import instrument_all, uninstrument_all

__all__ = ["instrument_all", "uninstrument_all"]

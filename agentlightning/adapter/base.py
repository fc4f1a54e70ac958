"""The base classes of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from agentlightning.types import Span, Triplet

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["Adapter", "OtelTraceAdapter", "TraceAdapter", "TraceToTripletBase"]

T_from = TypeVar("T_from", contravariant=True)
T_to = TypeVar("T_to", covariant=True)


class Adapter(Generic[T_from, T_to]):
    """Turns what was recorded into what an algorithm learns from: override `adapt`."""

    def __call__(self, source: T_from, /) -> T_to:
        """Does what `adapt` does."""
        return self.adapt(source)

    def adapt(self, source: T_from, /) -> T_to:
        """Returns `source` in the form that the algorithm wants."""
        raise NotImplementedError(f"{type(self).__name__} does not override adapt")


class OtelTraceAdapter(Adapter[Sequence["ReadableSpan"], T_to], Generic[T_to]):
    """An adapter of spans as OpenTelemetry's SDK recorded them."""


class TraceAdapter(Adapter[Sequence[Span], T_to], Generic[T_to]):
    """An adapter of spans as a store has them."""


class TraceToTripletBase(TraceAdapter[list[Triplet]]):
    """An adapter that makes triplets of the spans of one attempt."""

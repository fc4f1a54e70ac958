"""The dialects in which model calls are written, and the one way to read a span in all of them."""

from __future__ import annotations

from functools import reduce

from agentlightning.adapter.dialects.genai import GENAI, common_values
from agentlightning.adapter.dialects.generation import GENERATION, is_gateway_span
from agentlightning.adapter.dialects.litellm import LITELLM
from agentlightning.adapter.dialects.numbered import NUMBERED
from agentlightning.adapter.dialects.openinference import OPENINFERENCE
from agentlightning.adapter.model_calls import Dialect, ModelCall, merged
from agentlightning.types import Span

__all__ = ["DIALECTS", "LITELLM", "is_gateway_span", "is_model_call", "read_model_call"]

# What comes first is believed first: exact token ids, then what was recorded as it came over the wire.
DIALECTS: tuple[Dialect, ...] = (GENERATION, LITELLM, OPENINFERENCE, GENAI, NUMBERED)
"""The known dialects."""


def is_model_call(span: Span) -> bool:
    """Returns whether a span is a model call in a known dialect."""
    return any(dialect.recognises(span) for dialect in DIALECTS)


def read_model_call(span: Span) -> ModelCall:
    """Returns what a span says about a model call, in all dialects together.

    Spans may speak several: token ids are attributes of any span, and LiteLLM's proxy writes AgentOps' names too. What
    the conventions for generative AI have in common is read from spans of every dialect and of none.
    """
    spoken = [
        merged(ModelCall(dialects=(dialect.name,)), dialect.read(span))
        for dialect in DIALECTS
        if dialect.recognises(span)
    ]
    return reduce(merged, [*spoken, common_values(span.attributes)])

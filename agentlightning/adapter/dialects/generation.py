"""The record of a model call that this library's own types carry: token ids as attributes of any span."""

from __future__ import annotations

from typing import Any

from agentlightning.adapter.model_calls import Dialect, ModelCall
from agentlightning.adapter.parsing import numbered, structure, token_ids
from agentlightning.codec.generation import (
    MODEL,
    MODEL_VERSION,
    PROMPT_TOKEN_IDS,
    RESPONSE_LOGPROBS,
    RESPONSE_TOKEN_IDS,
)
from agentlightning.types import Span

__all__ = ["GENERATION", "is_gateway_span"]

_LOGPROBS_03 = "logprobs.content"
"""Where release 0.3 wrote log-probabilities: JSON, an object for each token."""


def is_gateway_span(span: Span) -> bool:
    """Returns whether the span is the record that a model gateway of this library made of a call."""
    return MODEL in span.attributes


def _recognises(span: Span) -> bool:
    return any(name in span.attributes for name in (PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS, MODEL))


def _read(span: Span) -> ModelCall:
    attributes = span.attributes
    ids = {name: token_ids(attributes[name]) for name in (PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS) if name in attributes}
    answered = {"model": attributes.get(MODEL), "model_version": attributes.get(MODEL_VERSION)}
    return ModelCall(
        prompt_token_ids=ids.get(PROMPT_TOKEN_IDS) or [],
        response_token_ids=ids.get(RESPONSE_TOKEN_IDS) or [],
        unreadable=tuple(name for name, value in ids.items() if value is None),
        logprobs=_logprobs(attributes),
        response={name: value for name, value in answered.items() if value},
    )


def _logprobs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    values = attributes.get(RESPONSE_LOGPROBS)
    if isinstance(values, (list, tuple)):
        return [{"logprob": value} for value in values]
    tokens = numbered(structure(attributes.get(_LOGPROBS_03)))
    return [token for token in tokens if isinstance(token, dict) and "logprob" in token]


GENERATION = Dialect("Agent Lightning", _recognises, _read)

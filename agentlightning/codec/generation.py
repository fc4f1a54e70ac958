"""The record of a model call: attributes in Python, packed numbers on the wire."""

from __future__ import annotations

from array import array
from typing import Any

from lightning_store import v1

PROMPT_TOKEN_IDS = "prompt_token_ids"
"""Attribute: token ids of the prompt."""
RESPONSE_TOKEN_IDS = "response_token_ids"
"""Attribute: token ids of the response."""
RESPONSE_LOGPROBS = "response_logprobs"
"""Attribute: natural logarithm of the probability of each response token, in single precision."""
MODEL = "agentlightning.generation.model"
"""Attribute: name of the model that answered."""
MODEL_VERSION = "agentlightning.generation.model_version"
"""Attribute: version of its weights."""

GENERATION_ATTRIBUTES = frozenset({PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS, RESPONSE_LOGPROBS, MODEL, MODEL_VERSION})
"""The attributes that `generation` can hold."""


def generation_to_message(key: str, value: Any, message: v1.Span) -> bool:
    """Puts one of `GENERATION_ATTRIBUTES` into the message's `generation`.

    Returns:
        Whether it fits there without loss. If not, the message holds nothing of it.
    """
    if key in (MODEL, MODEL_VERSION):
        if type(value) is not str or not value:
            return False
        if key == MODEL:
            message.generation.model = value
        else:
            message.generation.model_version = value
        return True
    if not isinstance(value, (list, tuple)) or not value:
        return False
    if key == RESPONSE_LOGPROBS:
        if set(map(type, value)) != {float} or array("f", value).tolist() != list(value):
            return False
        message.generation.response_logprobs.extend(value)
        return True
    try:
        if key == PROMPT_TOKEN_IDS:
            message.generation.prompt_token_ids.extend(value)
        else:
            message.generation.response_token_ids.extend(value)
    except (TypeError, ValueError):
        # Something that is no integer of 32 bits. What came before it is in the message already.
        message.generation.ClearField(key)  # type: ignore[arg-type]
        return False
    return True

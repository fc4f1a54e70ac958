"""The token ids in the answers of vLLM and its like, as the attributes that training reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from agentlightning.codec.generation import PROMPT_TOKEN_IDS, RESPONSE_LOGPROBS, RESPONSE_TOKEN_IDS
from agentlightning.types import Attributes

_KIND = "openinference.span.kind"
_OUTPUT = "output.value"


def token_attributes(documents: Iterable[Mapping[str, Any]]) -> Attributes:
    """Returns the token ids of one model call, packed by the codec on their way to the store.

    Args:
        documents: The answer of an OpenAI-compatible endpoint to a (chat) completion, or the chunks of a streamed one
            in their order. Only the first choice counts.

    Returns:
        `prompt_token_ids` and `response_token_ids`, and `response_logprobs` where there is one for each token of the
        response. Empty where the endpoint sent no token ids: it has to be asked with `return_token_ids`.
    """
    prompt: list[int] = []
    response: list[int] = []
    logprobs: list[float] = []
    for document in documents:
        choices = document.get("choices") or ()
        choice: Mapping[str, Any] = next((choice for choice in choices if not choice.get("index")), {})
        # A chat carries the prompt's ids beside the choices, a text completion in them.
        prompt = prompt or document.get("prompt_token_ids") or choice.get("prompt_token_ids") or []
        response += choice.get("token_ids") or []
        said = choice.get("logprobs") or {}
        logprobs += [token["logprob"] for token in said.get("content") or ()] or said.get("token_logprobs") or []
    attributes: Attributes = {}
    if prompt:
        attributes[PROMPT_TOKEN_IDS] = prompt
    if response:
        attributes[RESPONSE_TOKEN_IDS] = response
        if len(logprobs) == len(response) and None not in logprobs:
            attributes[RESPONSE_LOGPROBS] = logprobs
    return attributes


def token_attributes_of_span(attributes: Mapping[str, Any]) -> Attributes:
    """Returns `token_attributes` of a span that OpenInference made of a model call; empty for any other."""
    if attributes.get(_KIND) != "LLM" or PROMPT_TOKEN_IDS in attributes:
        return {}
    output = attributes.get(_OUTPUT)
    # Most endpoints send none, and reading an answer costs more than looking for the word.
    if not isinstance(output, str) or "token_ids" not in output:
        return {}
    try:
        return token_attributes([json.loads(output)])
    except (AttributeError, KeyError, TypeError, ValueError):
        # A text about token ids, or an endpoint that means something else by the word.
        return {}

"""Spans of a LiteLLM proxy: `raw_gen_ai_request` has the body of the provider's response, a text for each field.

The attributes are named `llm.PROVIDER.FIELD`; a field that is no text is written as a Python literal.
"""

from __future__ import annotations

import re
from typing import Any

from agentlightning.adapter.chat import chat_messages, function_tool, response_values
from agentlightning.adapter.model_calls import Dialect, ModelCall
from agentlightning.adapter.parsing import numbered, structure
from agentlightning.types import Span

__all__ = ["LITELLM"]

_RAW_FIELD = re.compile(r"llm\.([^.]+)\.(prompt_token_ids|response_token_ids|choices)")
_NAMES = frozenset({"raw_gen_ai_request", "litellm_request"})
_RESPONSE = ("id", "model", "created", "object", "usage", "system_fingerprint")
_REQUEST = ("temperature", "top_p", "max_tokens", "seed", "stop", "n", "logprobs", "return_token_ids", "extra_body")


def _recognises(span: Span) -> bool:
    return span.name in _NAMES or _provider(span.attributes) is not None


def _read(span: Span) -> ModelCall:
    provider = _provider(span.attributes)
    if provider is None:
        return ModelCall()
    prefix = f"llm.{provider}."
    body = {key[len(prefix) :]: value for key, value in span.attributes.items() if key.startswith(prefix)}
    response = {"choices", "prompt_token_ids", "response_token_ids", *_RESPONSE}
    values = response_values({key: _value(value) for key, value in body.items() if key in response})
    return ModelCall(
        **values,
        messages=chat_messages(structure(body.get("messages")), "user"),
        tools=[tool for each in numbered(structure(body.get("tools"))) if (tool := function_tool(each)) is not None],
        request={key: _value(body[key]) for key in ("model", *_REQUEST) if key in body},
        streamed=str(body.get("stream")) == "True",
        whole_response="choices" in body,
    )


def _provider(attributes: dict[str, Any]) -> str | None:
    for key in attributes:
        if match := _RAW_FIELD.fullmatch(key):
            return match.group(1)
    return None


def _value(written: Any) -> Any:
    return structure(written) or written


LITELLM = Dialect("LiteLLM", _recognises, _read)

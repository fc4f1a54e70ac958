"""Messages, tools and bodies in the form of OpenAI's chat API, made from what instrumentations write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentlightning.adapter.model_calls import ChatMessage
from agentlightning.adapter.parsing import json_structure, mapping, numbered, structure, token_ids

__all__ = [
    "as_text",
    "chat_message",
    "chat_messages",
    "function_tool",
    "is_chat_request",
    "recorded_message",
    "response_values",
    "tool_call",
]

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant"}
_MESSAGE_FIELDS = ("tool_call_id", "name", "refusal", "reasoning_content", "finish_reason")
_PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal"})


def as_text(value: Any) -> str:
    """Returns a text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def chat_message(role: str, content: Any = None, **fields: Any) -> ChatMessage:
    """Returns a message with those of `fields` that say something; content is None, a text or a list of parts."""
    if content is not None and not _is_parts(content):
        content = as_text(content)
    return {"role": _ROLES.get(role, role), "content": content, **{name: it for name, it in fields.items() if it}}


def tool_call(id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """Returns a call that the model wants made. Arguments that are no text become JSON."""
    function = {"name": as_text(name or ""), "arguments": as_text({} if arguments is None else arguments)}
    return {"id": as_text(id or ""), "type": "function", "function": function}


def function_tool(recorded: Any) -> dict[str, Any] | None:
    """Returns a tool that a model may call, written with or without its `function` envelope; None if it is none."""
    tool = structure(recorded)
    if not isinstance(tool, Mapping):
        return None
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        return dict(tool) if "type" in tool else None
    function = {key: value for key, value in inner.items() if key != "type"}
    if isinstance(parameters := function.get("parameters"), str):
        function["parameters"] = structure(parameters) or {}
    return {"type": "function", "function": function}


def recorded_message(recorded: Any, role: str) -> ChatMessage | None:
    """Returns a message that was recorded field by field; None if nothing in it is a message.

    Args:
        recorded: A mapping with any of `role`, `content`, `tool_calls`, `tool_call_id`, `name`, `finish_reason`,
            `refusal`, `reasoning_content`; a text is a message of its own.
        role: The role to take where it names none.
    """
    if isinstance(recorded, str):
        return chat_message(role, recorded)
    if not isinstance(recorded, Mapping):
        return None
    # Content in several parts arrives as JSON where attributes can only be flat.
    content = recorded.get("content")
    parts = json_structure(content)
    if _is_parts(parts):
        content = [dict(part) for part in parts]
    calls = [_recorded_tool_call(call) for call in numbered(structure(recorded.get("tool_calls")))]
    return chat_message(
        str(recorded.get("role") or role),
        content,
        tool_calls=[call for call in calls if call],
        **{key: recorded.get(key) for key in _MESSAGE_FIELDS},
    )


def chat_messages(recorded: Any, role: str) -> list[ChatMessage]:
    """Returns the messages of a list of recorded ones; see `recorded_message`."""
    return [message for each in numbered(recorded) if (message := recorded_message(each, role)) is not None]


def is_chat_request(body: Any) -> bool:
    """Returns whether a recorded request is one of OpenAI's chat API, so that its messages are as they were sent."""
    if not isinstance(body, Mapping) or "system" in body:
        return False
    messages = body.get("messages")
    return isinstance(messages, list) and all(_is_chat_message(message) for message in messages)


def response_values(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a response of OpenAI's chat or completions API, as vLLM extends it, says of a model call.

    Args:
        body: The response, whole or in parts. vLLM adds `prompt_token_ids`, and `token_ids` to each choice.

    Returns:
        Values for the fields of `ModelCall`.
    """
    choices = [mapping(choice) for choice in numbered(structure(body.get("choices")))]
    first = choices[0] if choices else {}
    extras = mapping(first.get("provider_specific_fields"))
    prompt, response, unreadable = _first_ids(
        {
            "prompt_token_ids": [body.get("prompt_token_ids"), first.get("prompt_token_ids")],
            "choices[0].token_ids": [first.get("token_ids"), extras.get("token_ids"), body.get("response_token_ids")],
        }
    )
    return {
        "prompt_token_ids": prompt,
        "response_token_ids": response,
        "unreadable": unreadable,
        "logprobs": _logprobs(first.get("logprobs")),
        "choices": [message for choice in choices if (message := _choice_message(choice)) is not None],
        "response": {
            key: value
            for key, value in body.items()
            if key not in ("choices", "prompt_token_ids", "response_token_ids") and value is not None
        },
    }


def _is_parts(content: Any) -> bool:
    is_list = isinstance(content, (list, tuple)) and len(content) > 0
    return is_list and all(isinstance(part, Mapping) and "type" in part for part in content)


def _recorded_tool_call(recorded: Any) -> dict[str, Any] | None:
    if not isinstance(recorded, Mapping):
        return None
    function = recorded.get("function")
    inner = function if isinstance(function, Mapping) else recorded
    return tool_call(recorded.get("id"), inner.get("name"), inner.get("arguments"))


def _is_chat_message(message: Any) -> bool:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(isinstance(part, Mapping) and part.get("type") in _PARTS for part in content)
    return content is None or isinstance(content, str)


def _choice_message(choice: Mapping[str, Any]) -> ChatMessage | None:
    recorded = choice.get("message", choice.get("text"))
    message = recorded_message(recorded, "assistant")
    if message is not None and choice.get("finish_reason"):
        message["finish_reason"] = choice["finish_reason"]
    return message


def _first_ids(candidates: Mapping[str, list[Any]]) -> tuple[list[int], list[int], tuple[str, ...]]:
    found: list[list[int]] = []
    unreadable: list[str] = []
    for name, values in candidates.items():
        given = [value for value in values if value is not None]
        readable = [ids for value in given if (ids := token_ids(value)) is not None]
        found.append(readable[0] if readable else [])
        if given and not readable:
            unreadable.append(name)
    return found[0], found[1], tuple(unreadable)


def _logprobs(recorded: Any) -> list[dict[str, Any]]:
    if not isinstance(recorded, Mapping):
        return []
    tokens = recorded.get("content")
    if isinstance(tokens, list):
        return [dict(token) for token in tokens if isinstance(token, Mapping) and "logprob" in token]
    # The completions API has parallel lists.
    values, texts = recorded.get("token_logprobs"), recorded.get("tokens")
    if isinstance(values, list) and isinstance(texts, list):
        return [{"token": text, "logprob": value} for text, value in zip(texts, values, strict=False)]
    return []

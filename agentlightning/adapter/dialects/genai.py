"""Spans of OpenTelemetry's conventions for generative AI: `gen_ai.operation.name`, messages made of parts.

The conventions have moved: messages are attributes today and were events of the span before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.adapter.chat import as_text, chat_message, function_tool, recorded_message, tool_call
from agentlightning.adapter.model_calls import ChatMessage, Dialect, ModelCall
from agentlightning.adapter.parsing import mapping, nested, numbered, structure
from agentlightning.types import Event, Span

__all__ = ["GENAI", "common_values"]

_OPERATIONS = frozenset({"chat", "text_completion", "generate_content"})
_DETAILS = "gen_ai.client.inference.operation.details"
_STREAMED = ("gen_ai.request.stream", "gen_ai.request.streaming", "gen_ai.is_streaming", "llm.is_streaming")
_FINISH_REASONS = {"tool_call": "tool_calls"}


def common_values(attributes: Mapping[str, Any]) -> ModelCall:
    """Returns what the conventions, old and new, put below `gen_ai.request` and `gen_ai.response`."""
    return ModelCall(
        request=dict(mapping(nested(attributes, "gen_ai.request"))),
        response=dict(mapping(nested(attributes, "gen_ai.response"))),
        streamed=any(attributes.get(name) is True for name in _STREAMED),
    )


def _recognises(span: Span) -> bool:
    return span.attributes.get("gen_ai.operation.name") in _OPERATIONS


def _read(span: Span) -> ModelCall:
    content: dict[str, Any] = dict(span.attributes)
    for event in span.events:
        if event.name == _DETAILS:
            content.update(event.attributes)
    messages = _messages(content, "gen_ai.input.messages", "user") or _prompt_of_events(span.events)
    instructions = _parts_message("system", numbered(structure(content.get("gen_ai.system_instructions"))))
    choices = _messages(content, "gen_ai.output.messages", "assistant") or _choices_of_events(span.events)
    reasons = [_finish_reason(reason) for reason in numbered(content.get("gen_ai.response.finish_reasons"))]
    for choice, reason in zip(choices, reasons, strict=False):
        choice.setdefault("finish_reason", reason)
    tools = numbered(structure(content.get("gen_ai.tool.definitions")))
    return ModelCall(
        messages=[*instructions, *messages],
        choices=choices,
        tools=[tool for each in tools if (tool := function_tool(each)) is not None],
    )


def _messages(content: Mapping[str, Any], name: str, role: str) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for recorded in numbered(structure(content.get(name))):
        if isinstance(recorded, Mapping) and "parts" in recorded:
            made = _parts_message(str(recorded.get("role") or role), numbered(structure(recorded["parts"])))
            if made and recorded.get("finish_reason"):
                made[0]["finish_reason"] = _finish_reason(recorded["finish_reason"])
            messages += made
        elif (message := recorded_message(recorded, role)) is not None:
            messages.append(message)
    return messages


def _parts_message(role: str, parts: list[Any]) -> list[ChatMessage]:
    """Returns the message made of the parts; the answer of each tool is a message of its own."""
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    answers: list[ChatMessage] = []
    reasoning = ""
    for part in map(mapping, parts):
        match part.get("type"):
            case "tool_call":
                calls.append(tool_call(part.get("id"), part.get("name"), part.get("arguments")))
            case "tool_call_response":
                # Called `result` before it was called `response`.
                answer = part.get("response", part.get("result", ""))
                answers.append(chat_message("tool", as_text(answer), tool_call_id=part.get("id")))
            case "reasoning":
                reasoning += as_text(part.get("content", ""))
            case _:
                content.append(_content_part(part))
    if answers and not content and not calls:
        return answers
    if not content and not calls and not reasoning:
        return []
    is_text = len(content) == 1 and content[0]["type"] == "text"
    body = content[0]["text"] if is_text else content or None
    return [chat_message(role, body, tool_calls=calls, reasoning_content=reasoning), *answers]


def _content_part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind, modality = part.get("type"), part.get("modality")
    if kind in ("text", None):
        return {"type": "text", "text": as_text(part.get("content", ""))}
    mime = str(part.get("mime_type") or f"{modality or 'application'}/*")
    if kind == "blob" and modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": part.get("content"), "format": mime.split("/")[-1]}}
    if kind == "blob":
        return _media(modality, f"data:{mime};base64,{part.get('content')}")
    if kind == "uri":
        return _media(modality, str(part.get("uri")))
    if kind == "file":
        return {"type": "file", "file": {"file_id": part.get("file_id")}}
    return {**part, "type": str(kind)}


def _media(modality: Any, url: str) -> dict[str, Any]:
    if modality == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def _finish_reason(reason: Any) -> str:
    return _FINISH_REASONS.get(str(reason), str(reason))


def _prompt_of_events(events: list[Event]) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for event in events:
        if event.name == "gen_ai.content.prompt":
            messages += _written_whole(event, "gen_ai.prompt", "user")
        elif event.name.startswith("gen_ai.") and event.name.endswith(".message"):
            body = _event_body(event)
            # The id of a tool's message is that of the call that it answers.
            fields = {"tool_call_id": body.get("id"), **body}
            if (message := recorded_message(fields, event.name.split(".")[1])) is not None:
                messages.append(message)
    return messages


def _choices_of_events(events: list[Event]) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for event in events:
        if event.name == "gen_ai.content.completion":
            messages += _written_whole(event, "gen_ai.completion", "assistant")
        elif event.name == "gen_ai.choice":
            body = _event_body(event)
            recorded = structure(body.get("message")) or body.get("message", body)
            message = recorded_message(recorded, "assistant")
            if message is not None:
                if body.get("finish_reason"):
                    message["finish_reason"] = _finish_reason(body["finish_reason"])
                messages.append(message)
    return messages


def _written_whole(event: Event, name: str, role: str) -> list[ChatMessage]:
    written = event.attributes.get(name)
    recorded = numbered(structure(written)) or [written]
    return [message for each in recorded if (message := recorded_message(each, role)) is not None]


def _event_body(event: Event) -> Mapping[str, Any]:
    body = structure(event.attributes.get("gen_ai.event.content"))
    return body if isinstance(body, Mapping) else event.attributes


GENAI = Dialect("OpenTelemetry GenAI", _recognises, _read)

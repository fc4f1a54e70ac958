"""Spans of OpenInference's instrumentations: `openinference.span.kind` is LLM, bodies are JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.adapter.chat import chat_message, function_tool, is_chat_request, response_values, tool_call
from agentlightning.adapter.model_calls import ChatMessage, Dialect, ModelCall, merged
from agentlightning.adapter.parsing import mapping, nested, numbered, structure
from agentlightning.types import Span

__all__ = ["OPENINFERENCE"]


def _recognises(span: Span) -> bool:
    return str(span.attributes.get("openinference.span.kind")).upper() == "LLM"


def _read(span: Span) -> ModelCall:
    attributes = span.attributes
    normalised = _normalised(attributes)
    request, response = structure(attributes.get("input.value")), structure(attributes.get("output.value"))
    # Bodies of OpenAI's API say more than the attributes that are spread from them: token ids, parts of messages.
    if is_chat_request(request):
        messages = [dict(message) for message in request["messages"]]
        normalised = merged(ModelCall(messages=messages, streamed=bool(request.get("stream"))), normalised)
    response = mapping(response)
    if isinstance(response.get("choices"), list):
        return merged(ModelCall(**response_values(response), whole_response=True), normalised)
    # LangChain's own record of a call stands apart from that of the client library that it used: the id joins them.
    if response_id := _langchain_response_id(response):
        return merged(normalised, ModelCall(response={"id": response_id}))
    return normalised


def _langchain_response_id(result: Mapping[str, Any]) -> Any:
    candidates = numbered(result.get("generations"))
    generations = numbered(candidates[0]) if candidates else []
    message = mapping(mapping(generations[0]).get("message")) if generations else {}
    metadata = mapping(mapping(message.get("kwargs")).get("response_metadata"))
    return mapping(result.get("llm_output")).get("id") or metadata.get("id")


def _normalised(attributes: Mapping[str, Any]) -> ModelCall:
    model = attributes.get("llm.model_name")
    named = {"model": model} if model else {}
    choices = _messages(attributes, "llm.output_messages", "assistant")
    reason = attributes.get("llm.finish_reason")
    if choices and reason:
        choices[0]["finish_reason"] = reason
    schemas = [mapping(mapping(item).get("tool")).get("json_schema") for item in _numbered(attributes, "llm.tools")]
    return ModelCall(
        messages=_messages(attributes, "llm.input_messages", "user"),
        choices=choices,
        tools=[tool for schema in schemas if (tool := function_tool(schema)) is not None],
        request={**named, **mapping(structure(attributes.get("llm.invocation_parameters")))},
        response=named if choices else {},
    )


def _messages(attributes: Mapping[str, Any], name: str, role: str) -> list[ChatMessage]:
    return [_message(mapping(mapping(item).get("message")), role) for item in _numbered(attributes, name)]


def _message(fields: Mapping[str, Any], role: str) -> ChatMessage:
    content = fields.get("content")
    if contents := numbered(fields.get("contents")):
        content = [_part(mapping(mapping(part).get("message_content"))) for part in contents]
    calls = [mapping(mapping(call).get("tool_call")) for call in numbered(fields.get("tool_calls"))]
    return chat_message(
        str(fields.get("role") or role),
        content,
        tool_calls=[_tool_call(call) for call in calls],
        tool_call_id=fields.get("tool_call_id"),
        name=fields.get("name"),
    )


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "image":
            # Written as `image.image.url`.
            image = mapping(mapping(part.get("image")).get("image"))
            return {"type": "image_url", "image_url": {"url": str(image.get("url", ""))}}
        case None:
            return {**part, "type": "text"}
        case _:
            return dict(part)


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = mapping(call.get("function"))
    return tool_call(call.get("id"), function.get("name"), function.get("arguments"))


def _numbered(attributes: Mapping[str, Any], name: str) -> list[Any]:
    return numbered(nested(attributes, name))


OPENINFERENCE = Dialect("OpenInference", _recognises, _read)

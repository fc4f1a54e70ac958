"""OpenAI's responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from agentlightning.gateway.apis.base import (
    Answer,
    Api,
    Choice,
    Document,
    Message,
    Prompt,
    Protocol,
    Reader,
    common_parameters,
    error_text,
    listed,
    named,
    text,
)
from agentlightning.gateway.apis.choices import usage_counts

_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_PART_TYPES: Final = {"input_text": "text", "output_text": "text"}


class Responses(Api):
    """`/responses`."""

    name: ClassVar[str] = "openai.response"
    path: ClassVar[str] = "/responses"
    protocol: ClassVar[Protocol] = "openai"
    operation: ClassVar[str | None] = "chat"

    def prompt(self, request: Document) -> Prompt:
        given = request.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else listed(given)
        instructions = text(request.get("instructions"))
        system = [{"role": "system", "content": instructions}] if instructions else []
        return Prompt([*system, *_messages(items)], _tools(request), common_parameters(request))

    def reader(self, request: Document) -> Reader:
        return _ResponsesReader()


class _ResponsesReader(Reader):
    def __init__(self) -> None:
        self._response: Document = {}
        self._texts: list[str] = []
        self._error: str | None = None

    def read_document(self, document: Document) -> None:
        self._response = document

    def read_event(self, document: Document) -> bool:
        # Events that tell how the response stands carry all of it.
        self._response = named(document.get("response")) or self._response
        if document.get("type") == "response.output_text.delta":
            self._texts.append(str(document.get("delta", "")))
        if document.get("type") == "error":
            self._error = str(document.get("message") or document)
        return document.get("type") in _ENDS

    def answer(self) -> Answer:
        response = self._response
        message: Message = {"role": "assistant", "content": None}
        for each in _messages(listed(response.get("output"))):
            content = [message.get("content"), each.get("content")]
            calls = [*message.get("tool_calls", []), *each.get("tool_calls", [])]
            message = {**message, **each, "content": "".join(map(_plain, content)) or None}
            if calls:
                message["tool_calls"] = calls
        if message["content"] is None and not message.get("tool_calls") and self._texts:
            message["content"] = "".join(self._texts)
        return Answer(
            id=text(response.get("id")),
            model=text(response.get("model")),
            choices=[Choice(message, _finish_reason(response, message))] if response or self._texts else [],
            usage=usage_counts(named(response.get("usage")), "input_tokens", "output_tokens"),
            error=self._error or error_text(response),
        )


def _messages(items: list[Any]) -> Iterator[Message]:
    """Yields the items of an input or output as messages of the chat API."""
    for item in map(named, items):
        match item.get("type", "message"):
            case "message":
                content = item.get("content")
                parts = [_part(named(part)) for part in listed(content)]
                yield {"role": str(item.get("role") or "user"), "content": parts if parts else content}
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                yield {"role": "assistant", "content": None, "tool_calls": [call]}
            case "function_call_output":
                yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
            case "reasoning":
                summary = "".join(str(named(part).get("text", "")) for part in listed(item.get("summary")))
                if summary:
                    yield {"role": "assistant", "content": None, "reasoning_content": summary}


def _part(part: Document) -> Document:
    kind = part.get("type")
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return {**part, "type": _PART_TYPES.get(str(kind), kind)}


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or part.get("refusal") or "") for part in content)
    return content or ""


def _tools(request: Document) -> list[Document]:
    tools = [dict(tool) for tool in listed(request.get("tools")) if isinstance(tool, dict)]
    return [
        {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        if tool.get("type") == "function"
        else tool
        for tool in tools
    ]


def _finish_reason(response: Document, message: Message) -> str | None:
    if response.get("status") == "incomplete":
        return str(named(response.get("incomplete_details")).get("reason") or "incomplete")
    if response.get("status") != "completed":
        return text(response.get("status"))
    return "tool_calls" if message.get("tool_calls") else "stop"

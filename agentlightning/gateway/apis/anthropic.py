"""Anthropic's messages."""

from __future__ import annotations

import json
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

FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Anthropic's stop reasons as OpenAI's chat API calls them."""


class Messages(Api):
    """`/messages`."""

    name: ClassVar[str] = "anthropic.message"
    path: ClassVar[str] = "/messages"
    protocol: ClassVar[Protocol] = "anthropic"
    # Of others it is asked as a chat completion; see `translation`.
    speakers: ClassVar[tuple[Protocol, ...]] = ("anthropic", "openai")
    operation: ClassVar[str | None] = "chat"

    def prompt(self, request: Document) -> Prompt:
        return Prompt(chat_messages(request), chat_tools(request), common_parameters(request))

    def reader(self, request: Document) -> Reader:
        return _MessagesReader()


class CountTokens(Api):
    """`/messages/count_tokens`, which uses no model and is not recorded."""

    name: ClassVar[str] = "anthropic.count_tokens"
    path: ClassVar[str] = "/messages/count_tokens"
    protocol: ClassVar[Protocol] = "anthropic"
    speakers: ClassVar[tuple[Protocol, ...]] = ("anthropic",)

    def reader(self, request: Document) -> Reader:
        return _MessagesReader()


class _MessagesReader(Reader):
    def __init__(self) -> None:
        self._message: Document = {}
        self._blocks: dict[int, tuple[Document, list[str]]] = {}
        self._usage: Document = {}
        self._stop_reason: str | None = None
        self._error: str | None = None

    def read_document(self, document: Document) -> None:
        self._message = document
        self._blocks = {index: (named(block), []) for index, block in enumerate(listed(document.get("content")))}
        self._usage = named(document.get("usage"))
        self._stop_reason = text(document.get("stop_reason"))
        self._error = error_text(document)

    def read_event(self, document: Document) -> bool:
        match document.get("type"):
            case "message_start":
                self._message = named(document.get("message"))
                self._usage = dict(named(self._message.get("usage")))
            case "content_block_start":
                self._blocks[len(self._blocks)] = (named(document.get("content_block")), [])
            case "content_block_delta" if self._blocks:
                delta = named(document.get("delta"))
                piece = next((delta[key] for key in ("text", "partial_json", "thinking") if key in delta), "")
                self._blocks[len(self._blocks) - 1][1].append(str(piece))
            case "message_delta":
                self._stop_reason = text(named(document.get("delta")).get("stop_reason"))
                self._usage = {**self._usage, **named(document.get("usage"))}
                return True
            case "message_stop":
                return True
            case "error":
                self._error = error_text(document)
                return True
        return False

    def answer(self) -> Answer:
        blocks = [_complete(block, "".join(pieces)) for block, pieces in self._blocks.values()]
        message = next(_chat_messages("assistant", blocks), {"role": "assistant", "content": None})
        reason = FINISH_REASONS.get(self._stop_reason or "", self._stop_reason)
        return Answer(
            id=text(self._message.get("id")),
            model=text(self._message.get("model")),
            choices=[Choice(message, reason)] if blocks or reason else [],
            usage=usage_counts(self._usage, "input_tokens", "output_tokens"),
            error=self._error,
        )


def chat_messages(request: Document) -> list[Message]:
    """Returns the messages of a request in the form of OpenAI's chat API, the system's first."""
    system = request.get("system")
    blocks = listed(system) or ([{"type": "text", "text": system}] if text(system) else [])
    messages = list(_chat_messages("system", blocks))
    for message in map(named, listed(request.get("messages"))):
        content = message.get("content")
        given = [{"type": "text", "text": content}] if isinstance(content, str) else listed(content)
        messages += _chat_messages(str(message.get("role") or "user"), given)
    return messages


def chat_tools(request: Document) -> list[Document]:
    """Returns the tools of a request in the form of OpenAI's chat API; those that Anthropic runs itself as they are."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                **({"description": tool["description"]} if "description" in tool else {}),
                "parameters": tool["input_schema"],
            },
        }
        if "input_schema" in tool
        else tool
        for tool in map(named, listed(request.get("tools")))
    ]


def _complete(block: Document, pieces: str) -> Document:
    if not pieces:
        return block
    match block.get("type"):
        case "tool_use":
            return {**block, "input": pieces}
        case "thinking":
            return {**block, "thinking": pieces}
    return {**block, "text": str(block.get("text", "")) + pieces}


def _chat_messages(role: str, blocks: list[Any]) -> Iterator[Message]:
    """Yields the message that the blocks of one are in the chat API; each result of a tool is one of its own."""
    parts: list[Document] = []
    calls: list[Document] = []
    thoughts = ""
    for block in map(named, blocks):
        match block.get("type"):
            case "text":
                parts.append({"type": "text", "text": str(block.get("text", ""))})
            case "image":
                parts.append({"type": "image_url", "image_url": {"url": _image_url(named(block.get("source")))}})
            case "tool_use":
                given = block.get("input")
                arguments = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
                function = {"name": block.get("name"), "arguments": arguments}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case "tool_result":
                yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _result(block)}
            case "thinking":
                thoughts += str(block.get("thinking", ""))
    if parts or calls or thoughts:
        texts = [part["text"] for part in parts if part["type"] == "text"]
        content = (texts[0] if len(texts) == len(parts) == 1 else parts) if parts else None
        yield {
            "role": role,
            "content": content,
            **({"tool_calls": calls} if calls else {}),
            **({"reasoning_content": thoughts} if thoughts else {}),
        }


def _result(block: Document) -> str:
    content = block.get("content")
    if isinstance(content, list):
        return "".join(str(named(part).get("text", "")) for part in content)
    return "" if content is None else str(content)


def _image_url(source: Document) -> str:
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    return str(source.get("url", ""))

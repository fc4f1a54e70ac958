"""Anthropic's messages over a backend that speaks OpenAI's chat completions, there and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from agentlightning.gateway.apis.anthropic import FINISH_REASONS, chat_messages, chat_tools
from agentlightning.gateway.apis.base import Document, count, error_text, listed, named, text
from agentlightning.gateway.errors import GatewayError, error_document
from agentlightning.gateway.relay import Rewriting
from agentlightning.gateway.sse import ServerEvent, event

_SAME: Final = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
_TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_STOP_REASONS: Final = {
    **{theirs: ours for ours, theirs in FINISH_REASONS.items() if ours != "stop_sequence"},
    "function_call": "tool_use",
}


def chat_request(request: Document) -> Document:
    """Returns the chat completion request that says what a request for a message says."""
    chat: Document = {name: request[name] for name in _SAME if name in request}
    # What the model thought is not part of OpenAI's API.
    chat["messages"] = [
        {name: value for name, value in message.items() if name != "reasoning_content"}
        for message in chat_messages(request)
    ]
    if request.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    if request.get("stop_sequences"):
        chat["stop"] = request["stop_sequences"]
    # Tools of other types run at Anthropic.
    tools = [tool for tool in chat_tools(request) if tool.get("type") == "function" and "function" in tool]
    if tools:
        chat["tools"] = tools
        choice = named(request.get("tool_choice"))
        if choice.get("type") == "tool":
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        elif choice.get("type") in _TOOL_CHOICES:
            chat["tool_choice"] = _TOOL_CHOICES[choice["type"]]
        if choice.get("disable_parallel_tool_use"):
            chat["parallel_tool_calls"] = False
    return chat


class MessageRewriting(Rewriting):
    """Makes messages, whole and in streams, of chat completions. Texts stay as they are, down to every blank.

    Args:
        model: The name that the agent called the model by.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = False
        self._blocks = 0
        self._open: str | None = None
        self._stop: Document | None = None
        self._usage: Document = {"input_tokens": 0, "output_tokens": 0}

    def document(self, raw: bytes, document: Document, status: int) -> bytes:
        if status >= 400:
            said = error_text(document) or text(document.get("message")) or "the backend refused the request"
            return json.dumps(error_document(GatewayError(status, said, ""), "anthropic")).encode()
        choice = named((listed(document.get("choices")) or [None])[0])
        self._usage = _usage(named(document.get("usage")))
        message = self._message(document)
        message |= {"content": list(_blocks(named(choice.get("message")))), **_stop(choice)}
        return json.dumps(message).encode()

    def event(self, event: ServerEvent, document: Document | None) -> bytes:
        return b"" if document is None else b"".join(self._events(document))

    def end(self, rest: bytes) -> bytes:
        if self._stop is None:
            return b""
        delta = {"type": "message_delta", "delta": self._stop, "usage": self._usage}
        return event(delta, "message_delta") + event({"type": "message_stop"}, "message_stop")

    def _events(self, chunk: Document) -> Iterator[bytes]:
        if error := error_text(chunk):
            yield event(error_document(GatewayError(500, error, ""), "anthropic"), "error")
            return
        if not self._started:
            self._started = True
            yield event({"type": "message_start", "message": self._message(chunk)}, "message_start")
        if usage := named(chunk.get("usage")):
            self._usage = _usage(usage)
        for choice in map(named, listed(chunk.get("choices"))):
            delta = named(choice.get("delta"))
            if thought := text(delta.get("reasoning_content") or delta.get("reasoning")):
                yield from self._into("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": thought})
            if said := text(delta.get("content")):
                yield from self._into("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": said})
            for call in map(named, listed(delta.get("tool_calls"))):
                yield from self._tool_call(call)
            if choice.get("finish_reason"):
                yield from self._close()
                self._stop = _stop(choice)

    def _tool_call(self, call: Document) -> Iterator[bytes]:
        function = named(call.get("function"))
        # The first piece of a call has its name, and pieces of one call come together.
        key = f"tool_use {call.get('index')}"
        if function.get("name") or self._open != key:
            block: Document = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
            yield from self._into(key, block)
        if arguments := text(function.get("arguments")):
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _into(self, key: str, block: Document) -> Iterator[bytes]:
        """Yields what begins a block, unless it is the one that is open."""
        if self._open == key:
            return
        yield from self._close()
        self._open = key
        start = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        yield event(start, "content_block_start")

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield event({"type": "content_block_stop", "index": self._blocks}, "content_block_stop")
            self._blocks += 1

    def _delta(self, delta: Document) -> bytes:
        return event({"type": "content_block_delta", "index": self._blocks, "delta": delta}, "content_block_delta")

    def _message(self, document: Document) -> Document:
        return {
            "id": document.get("id"),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage,
        }


def _blocks(message: Document) -> Iterator[Document]:
    if thought := text(message.get("reasoning_content") or message.get("reasoning")):
        yield {"type": "thinking", "thinking": thought, "signature": ""}
    if said := text(message.get("content")):
        yield {"type": "text", "text": said}
    for call in map(named, listed(message.get("tool_calls"))):
        function = named(call.get("function"))
        arguments = _arguments(function.get("arguments"))
        yield {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _arguments(written: Any) -> Document:
    try:
        return named(json.loads(written))
    except (TypeError, ValueError):
        return {}


def _stop(choice: Document) -> Document:
    reason = str(choice.get("finish_reason"))
    # vLLM says which text it stopped at.
    if reason == "stop" and (sequence := text(choice.get("stop_reason"))):
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    return {"stop_reason": _STOP_REASONS.get(reason, "end_turn"), "stop_sequence": None}


def _usage(usage: Document) -> Document:
    return {
        "input_tokens": count(usage.get("prompt_tokens")) or 0,
        "output_tokens": count(usage.get("completion_tokens")) or 0,
    }

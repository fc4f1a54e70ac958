"""A backend that speaks Anthropic's messages: it echoes texts and calls the first tool that it is offered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripted_backend import JSON, Exchange, sse

PIECE = 7
"""How many characters each event of a stream carries."""


def message_of(request: JSON) -> JSON:
    """Returns the answer to a request, whole."""
    last = request["messages"][-1]["content"]
    blocks = last if isinstance(last, list) else [{"type": "text", "text": last}]
    results = [block["content"] for block in blocks if block["type"] == "tool_result"]
    asked = "".join(block.get("text", "") for block in blocks)
    content: list[JSON]
    if request.get("tools") and not results:
        tool = {"type": "tool_use", "id": "toolu_1", "name": request["tools"][0]["name"], "input": {"city": asked}}
        content = [{"type": "text", "text": "Let me see. "}, tool]
    else:
        content = [{"type": "text", "text": f"tool said: {results[0]}" if results else f"echo: {asked}"}]
    return {
        "id": f"msg_{len(request['messages'])}",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": content,
        "stop_reason": "tool_use" if len(content) > 1 else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 5},
    }


def events_of(message: JSON) -> Iterator[JSON]:
    """Cuts an answer into the events of a stream."""
    head = {**message, "content": [], "stop_reason": None, "usage": {"input_tokens": 11, "output_tokens": 1}}
    yield {"type": "message_start", "message": head}
    for index, block in enumerate(message["content"]):
        is_text = block["type"] == "text"
        empty = {**block, "text": ""} if is_text else {**block, "input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        written = block["text"] if is_text else json.dumps(block["input"])
        for start in range(0, len(written), PIECE):
            piece = written[start : start + PIECE]
            delta: Any = {"text": piece} if is_text else {"partial_json": piece}
            delta["type"] = "text_delta" if is_text else "input_json_delta"
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


async def speak_anthropic(exchange: Exchange) -> None:
    """Answers a request for a message."""
    if exchange.path == "/v1/messages/count_tokens":
        await exchange.answer({"input_tokens": 11})
        return
    message = message_of(exchange.document)
    if not exchange.document.get("stream"):
        await exchange.answer(message)
        return
    await exchange.begin()
    for event in events_of(message):
        await exchange.send(sse(event, event["type"]))
    await exchange.end()

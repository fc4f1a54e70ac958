"""A model server that has its answers ready: what a gateway adds to it is the gateway's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from environments import READY_LINE

TOKENS = 128
"""Tokens of the prompt, and as many of the response; one event of a stream for each."""


def main() -> None:
    """Serve on a free port until killed."""
    asyncio.run(_serve())


async def _serve() -> None:
    answers = {
        (streamed, extras): b"".join(_stream(extras)) if streamed else _whole(extras)
        for streamed in (False, True)
        for extras in (False, True)
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                streamed = bool(request.get("stream"))
                writer.write(answers[streamed, bool(request.get("return_token_ids"))])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"{READY_LINE}127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _whole(extras: bool) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": " word" * TOKENS}, "finish_reason": "stop"}
    return _response("application/json", json.dumps(_document(choice, range(TOKENS), extras)).encode())


def _stream(extras: bool) -> list[bytes]:
    events = [_document({"index": 0, "delta": {"content": " word"}}, [number], extras) for number in range(TOKENS)]
    events.append(_document({"index": 0, "delta": {}, "finish_reason": "stop"}, [], extras))
    lines = [*(json.dumps(event) for event in events), "[DONE]"]
    chunks = [f"data: {line}\n\n".encode() for line in lines]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


def _document(choice: dict[str, Any], tokens: Any, extras: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": "model"}
    document["choices"] = [{"logprobs": None, **choice}]
    if extras:
        content = [{"token": " word", "logprob": -0.5, "bytes": [1], "top_logprobs": []} for _ in tokens]
        document["choices"][0] |= {"token_ids": list(tokens), "logprobs": {"content": content}}
        document["prompt_token_ids"] = list(range(TOKENS))
    return document


def _response(content_type: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    main()

"""HTTP with next to no cost of its own, for tests with very many calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit


async def post(url: str, document: dict[str, Any], *, until: bytes | None = None) -> bytes:
    """Posts a JSON document on a connection of its own.

    Args:
        url: Where to.
        document: The document.
        until: What to stop reading at, and hang up; None reads the whole answer.

    Returns:
        What came, its head included.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = json.dumps(document).encode()
    head = f"POST {parts.path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    received = b""
    try:
        while chunk := await reader.read(65536):
            received += chunk
            if until is not None and until in received:
                break
    finally:
        writer.close()
        await writer.wait_closed()
    return received

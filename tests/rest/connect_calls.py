"""The contract over plain HTTP, as any program calls it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from agentlightning.store.methods import METHODS, Method

BY_RPC = {method.rpc: method for method in METHODS}
JSON = "application/json"
PROTO = "application/proto"


class Fault(NamedTuple):
    """What an error says."""

    code: str
    reason: str


def packed_details(error: Mapping[str, Any]) -> tuple[ErrorInfo, RetryInfo | None]:
    """The details of an error, read from their binary form, which says the same as the legible one."""
    info, retry = ErrorInfo(), None
    for detail in error["details"]:
        data = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
        if detail["type"] == "google.rpc.RetryInfo":
            retry = RetryInfo.FromString(data)
        else:
            assert detail["type"] == "google.rpc.ErrorInfo"
            info = ErrorInfo.FromString(data)
            assert detail["debug"]["reason"] == info.reason
            assert detail["debug"].get("metadata", {}) == info.metadata
    assert info.domain == "lightning_store.v1"
    return info, retry


def fault_of(error: Mapping[str, Any]) -> Fault:
    """The code and the reason of an error, which must be complete."""
    assert error["message"]
    return Fault(error["code"], packed_details(error)[0].reason)


def refusal(answer: httpx.Response, status: int) -> Fault:
    """What an answer refuses with, which must be in the form that errors have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    assert "Traceback" not in answer.text
    return fault_of(answer.json())


def enveloped(message: bytes, flags: int = 0) -> bytes:
    """A message as streams have it."""
    return struct.pack(">BI", flags, len(message)) + message


def envelopes_in(body: bytes) -> list[tuple[int, bytes]]:
    """The envelopes of a whole body, each with its flags."""
    found = []
    while body:
        flags, length = struct.unpack_from(">BI", body)
        found.append((flags, body[5 : 5 + length]))
        body = body[5 + length :]
    return found


class Answers:
    """The messages of a stream, read as they come."""

    def __init__(self, method: Method, response: httpx.Response) -> None:
        self.response = response
        self._method = method
        self._pieces = response.aiter_raw()
        self._data = b""

    async def next(self) -> tuple[int, bytes]:
        """The next envelope: its flags and what is in it."""
        while len(self._data) < 5 or len(self._data) < 5 + struct.unpack_from(">BI", self._data)[1]:
            self._data += await anext(self._pieces)
        flags, length = struct.unpack_from(">BI", self._data)
        message, self._data = self._data[5 : 5 + length], self._data[5 + length :]
        return flags, message

    async def json(self) -> Any:
        """The next message, which must be one of the contract's in JSON."""
        flags, message = await self.next()
        assert flags == 0, message
        return json.loads(message)

    async def end(self) -> Any:
        """How the call ended, which it must have; nothing comes after it."""
        flags, message = await self.next()
        assert flags == 2, message
        assert [piece async for piece in self._pieces] == []
        assert self._data == b""
        return json.loads(message)


class Caller:
    """A program that calls the methods over HTTP.

    Args:
        url: Where the server is.
        client: What it sends its requests with.
    """

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.client = client

    async def post(
        self, rpc: str, body: Any = None, *, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Calls a method with a body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        url = self.url + BY_RPC[rpc].path
        return await self.client.post(url, content=data, headers={"Content-Type": content_type, **(headers or {})})

    async def call(self, rpc: str, body: Any = None, **headers: str) -> Any:
        """Calls a method, which must succeed."""
        answer = await self.post(rpc, body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == JSON
        return answer.json()

    async def call_binary(self, rpc: str, request: Message) -> Any:
        """Calls a method in binary, which must succeed."""
        answer = await self.post(rpc, request.SerializeToString(), content_type=PROTO)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == PROTO
        return BY_RPC[rpc].response.FromString(answer.content)

    @asynccontextmanager
    async def stream(
        self, rpc: str, body: Any = None, *, form: str = "json", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answers]:
        """Calls a method that is answered by a stream: bytes are the whole body, anything else is enveloped as JSON."""
        method = BY_RPC[rpc]
        data = body if isinstance(body, bytes) else enveloped(json.dumps({} if body is None else body).encode())
        media_type = f"application/connect+{form}"
        request = self.client.stream(
            "POST", self.url + method.path, content=data, headers={"Content-Type": media_type, **(headers or {})}
        )
        async with request as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == media_type
            yield Answers(method, response)

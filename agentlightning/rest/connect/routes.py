"""Any `StoreApi` over HTTP: a route for each service, found and read by the descriptors of the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, Final, ParamSpec, TypeVar

from fastapi import FastAPI
from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from agentlightning.rest.compression import too_large, unpack
from agentlightning.rest.connect.callers import waiting_caller
from agentlightning.rest.connect.codecs import CODECS, PROTO, Codec
from agentlightning.rest.connect.envelopes import envelope, open_envelope
from agentlightning.rest.connect.errors import error_body, error_response
from agentlightning.rest.connect.openapi import describe
from agentlightning.rest.serving import long_calls_of
from agentlightning.store import status
from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument, Unimplemented
from agentlightning.store.face import StoreFace
from agentlightning.store.methods import METHODS, SERVICES, Method

P = ParamSpec("P")
T = TypeVar("T")

_VERSION: Final = "connect-protocol-version"
# Bytes of a message from which on a hop to a thread costs little beside what JSON does.
_LARGE: Final = 1 << 16


def serve_contract(app: FastAPI, store: StoreFace) -> None:
    """Adds every method of the contract to an application, as `POST /{service}/{method}`.

    Args:
        app: The application.
        store: What is served; its experiment is that of a call that names none.
    """
    for service in SERVICES:
        endpoint = Service(service, store.api, store.context.experiment)
        app.add_route(f"/{service}/{{rpc}}", endpoint, ["POST"], include_in_schema=False)  # type: ignore[arg-type]
    describe(app)


class Service:
    """The methods of one service; an ASGI application.

    Args:
        service: Its full name.
        api: Does the work.
        experiment: The experiment of a call that names none.
    """

    def __init__(self, service: str, api: StoreApi, experiment: str) -> None:
        self._service = service
        self._experiment = experiment
        self._methods = {
            method.rpc: (method, getattr(api, method.name)) for method in METHODS if method.service == service
        }
        self._encoded_methods = {
            rpc: getattr(api, f"encoded_{of.name}", None) for rpc, (of, _) in self._methods.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a call as ASGI has it."""
        request = Request(scope, receive)
        rpc = request.path_params["rpc"]
        if rpc not in self._methods:
            name = f"/{self._service}/{rpc}"
            unknown = Unimplemented(
                f"This server has no method {name}.", reason="UNKNOWN_METHOD", metadata={"method": name}
            )
            await error_response(unknown)(scope, receive, send)
            return
        method, call = self._methods[rpc]
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        codecs = {codec.media_type(streams=method.streams): codec for codec in CODECS}
        if media_type not in codecs:
            refusal = f"{rpc} takes {' and '.join(codecs)}, not {media_type or 'a body without Content-Type'}."
            refused = {"code": "unknown", "message": refusal}
            await JSONResponse(refused, 415, {"Accept-Post": ", ".join(codecs)})(scope, receive, send)
            return
        if codecs[media_type] is PROTO:
            call = self._encoded_methods[rpc] or call
        answer = self._stream if method.streams else self._answer
        try:
            await answer(method, call, codecs[media_type], request, send)
        except ClientDisconnect:
            return  # nobody is left to hear

    async def _answer(self, method: Method, call: Any, codec: Codec, request: Request, send: Send) -> None:
        response: Response
        try:
            message = await _message(method, codec, request, await _body(request))
            async with waiting_caller(request.headers, request.receive, self._experiment) as context:
                with _may_end(method, request):
                    answer = await call(context, message)
            response = Response(await _encoded(codec, answer), media_type=codec.media_type(streams=False))
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001  the one place where errors of these calls leave for the wire
            response = error_response(status.public_error(error))
        await response(request.scope, request.receive, send)

    async def _stream(self, method: Method, call: Any, codec: Codec, request: Request, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        body = await _body(request)
        media_type = codec.media_type(streams=True).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})
        end = {}
        try:
            message = await _message(method, codec, request, body)
            async with waiting_caller(request.headers, request.receive, self._experiment) as context:
                with _may_end(method, request):
                    async with aclosing(call(context, message)) as answers:
                        async for answer in answers:
                            await write(envelope(await _encoded(codec, answer)))
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001  the one place where errors of these calls leave for the wire
            end["error"] = error_body(status.public_error(error))
        await write(envelope(json.dumps(end).encode(), ends=True), more=False)


async def _body(request: Request) -> bytes | None:
    """Returns the body; None if it is larger than the server takes."""
    try:
        return await request.body()
    except HTTPException:
        return None


async def _message(method: Method, codec: Codec, request: Request, body: bytes | None) -> Message:
    if body is None:
        raise too_large()
    version = request.headers.get(_VERSION, "1")
    if version != "1":
        raise InvalidArgument(f"{_VERSION} must be 1, not {version[:40]!r}.", reason="MALFORMED_REQUEST")
    if method.streams:
        data = open_envelope(body, request.headers.get("connect-content-encoding", ""))
    else:
        data = unpack(body, request.headers.get("content-encoding", ""))
    return await _aside(len(data), codec.decode, method.request, data)


async def _encoded(codec: Codec, message: Message | bytes) -> bytes:
    if isinstance(message, bytes):
        return message
    return await _aside(message.ByteSize(), codec.encode, message)


async def _aside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Does what takes long with a large message beside the event loop: the others' calls go on."""
    return await asyncio.to_thread(work, *args, **kwargs) if size > _LARGE else work(*args, **kwargs)


def _may_end(method: Method, request: Request) -> AbstractContextManager[None]:
    """Has a call that may last end with the server; the others are finished first."""
    long_calls = long_calls_of(request.scope)
    return long_calls.running() if method.may_last and long_calls is not None else nullcontext()

"""One call of a model on its way through the gateway."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, NamedTuple

import httpx
from starlette.types import Send

from agentlightning.gateway.apis import APIS
from agentlightning.gateway.apis.base import Api, Document, Extra, Protocol
from agentlightning.gateway.apis.translation import MessageRewriting, chat_request
from agentlightning.gateway.backends import Backend
from agentlightning.gateway.core import Gateway
from agentlightning.gateway.errors import GatewayError, error_body, error_document
from agentlightning.gateway.recording import CallRecord
from agentlightning.gateway.relay import Hiding, Rewriting, StreamRelay, parsed
from agentlightning.gateway.retries import (
    CallBudgets,
    failure_of_error,
    failure_of_status,
    retry_after_of,
)
from agentlightning.gateway.routing import BackendState
from agentlightning.gateway.sse import EVENT_STREAM, event

logger = logging.getLogger(__name__)

KEY_HEADERS: Final = frozenset({"authorization", "x-api-key", "api-key"})
"""Where agents show their key."""
VERSION_HEADER: Final = "agentlightning-model-version"
"""In an answer: the version of the weights that made it, from backends that know better than the gateway."""

_REFUSED: Final = (400, 422)
# A process that is busy with hundreds of calls gets to a new connection late.
_CONNECT_SECONDS: Final = 20.0
_OF_CONNECTIONS: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length"),
    }
)
# What is made anew here, and who calls: that is between the agent and the gateway.
_NOT_FORWARDED: Final = _OF_CONNECTIONS | {"host", "accept-encoding", "expect", "cookie"} | KEY_HEADERS
_NOT_RETURNED: Final = _OF_CONNECTIONS | {"content-encoding", "date", "server", "set-cookie"}


class _Asked(NamedTuple):
    """A call as its backend is asked."""

    api: Api
    request: Document
    body: bytes


class ModelCall:
    """Forwards a call, passes the answer on, and records both.

    Args:
        gateway: What calls share.
        api: The API that is called.
        attempt: The rollout and attempt that call; None is not recorded.
        body: The request as it came.
        request: The JSON object in it.
        headers: The headers of the request, names in small letters.
        send: Sends to the agent.
    """

    def __init__(
        self,
        gateway: Gateway,
        api: Api,
        attempt: tuple[str, str] | None,
        body: bytes,
        request: Document,
        headers: Mapping[str, str],
        send: Send,
    ) -> None:
        self._gateway = gateway
        self._api = api
        self._attempt = attempt
        self._body = body
        self._request = request
        self._headers = headers
        self._send = send
        self._asked = _Asked(api, request, body)
        self._extras: tuple[Extra, ...] = ()
        self._began = False
        self._reader = api.reader(request)
        self._record: CallRecord | None = None
        self._reserved: asyncio.Task[int | None] | None = None
        self._response: httpx.Response | None = None
        if attempt is not None and api.operation is not None:
            self._record = CallRecord(api, attempt, request)

    async def run(self) -> None:
        """Answers the agent. Cancel it when the agent has hung up, which is recorded."""
        # What is entered in the stack is left when the call is recorded: a drained model has no call left to record.
        async with AsyncExitStack() as stack:
            try:
                await self._forward(stack)
            except GatewayError as error:
                await self._fail(error)
            except asyncio.CancelledError:
                await self._abandon()
                raise

    async def _forward(self, stack: AsyncExitStack) -> None:
        record = self._record
        if record is not None:
            # Meanwhile the backend works.
            self._reserved = asyncio.create_task(self._gateway.reserve(record.attempt))
        model = str(self._request["model"])
        admission = await stack.enter_async_context(self._gateway.router.admitted(model))
        if record is not None:
            record.model_version, record.held_seconds = admission
        self._response = response = await stack.enter_async_context(self._answered(model))
        if self._reserved is not None:
            # Nothing goes out of a call that cannot be recorded.
            await asyncio.shield(self._reserved)
        await self._pass_on(response)

    async def _abandon(self) -> None:
        if self._response is not None:
            # First of all, so that the backend stops.
            await self._response.aclose()
        if self._record is not None:
            self._record.outcome = "cancelled"
            self._record.error = "the agent hung up before the answer had ended"
        with suppress(GatewayError):
            await self._commit()

    @asynccontextmanager
    async def _answered(self, model: str) -> AsyncIterator[httpx.Response]:
        """Yields the answer that counts, its body still to come."""
        budgets = CallBudgets(self._gateway.settings.retries)
        key = self._attempt[0] if self._attempt else None
        while True:
            state = self._gateway.router.pick(model, self._api.speakers, key)
            if self._record is not None:
                self._record.backend = state.backend
                self._record.model_version = self._record.model_version or state.backend.model_version
            state.in_flight += 1
            response: httpx.Response | None = None
            try:
                try:
                    response = await self._ask(state)
                    failure = failure_of_status(response.status_code)
                    pause, trouble = retry_after_of(response), ""
                    state.worked()
                except httpx.TransportError as error:
                    failure, pause = failure_of_error(error), None
                    trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                    if failure == "unreachable":
                        state.failed()
                delay = budgets.delay_after(failure, pause) if failure is not None else None
                if self._record is not None:
                    self._record.retries = budgets.retries
                if delay is None:
                    if response is None:
                        status = 504 if failure == "silent" else 502
                        where = f"The backend of {model!r} at {state.backend.url}"
                        raise GatewayError(status, f"{where} gives no answer: {trouble}", "backend_unavailable")
                    yield response
                    return
            finally:
                state.in_flight -= 1
                if response is not None:
                    await response.aclose()
            logger.info("a call of %s is sent again in %.1f s: %s", model, delay, trouble or response)
            await asyncio.sleep(delay)

    async def _ask(self, state: BackendState) -> httpx.Response:
        """Sends the request, with what the backend may be asked for beside it.

        A backend that refuses that is asked for less, down to what the agent wrote, and is not asked for it again.
        """
        asked = self._asked = self._asked_of(state.backend)
        self._reader = asked.api.reader(asked.request)
        wanted = asked.api.asks(asked.request) if self._record is not None else {}
        allowed = state.understood.get(asked.api.name, state.backend.extras)
        first = tuple(extra for extra in allowed if extra in wanted and extra in self._gateway.settings.extras)
        extras, unknown = first, asked.api.name not in state.understood
        while True:
            response = await self._post(state.backend, {k: v for each in extras for k, v in wanted[each].items()})
            if response.status_code not in _REFUSED or not extras:
                break
            await response.aclose()
            # Of one that is known to understand, it is rather the request that does not go together with them.
            extras = extras[1:] if unknown else ()
        if response.is_success and first and unknown:
            refused = first[: len(first) - len(extras)]
            state.understood[asked.api.name] = tuple(each for each in allowed if each not in refused)
            if refused:
                logger.warning("%s refuses to be asked for %s", state.backend.url, " and ".join(refused))
        self._extras = extras
        return response

    def _asked_of(self, backend: Backend) -> _Asked:
        """Returns the call as the backend's protocol has it."""
        if backend.protocol == self._api.protocol:
            return _Asked(self._api, self._request, self._body)
        request = chat_request(self._request)
        return _Asked(APIS["/chat/completions"], request, json.dumps(request).encode())

    async def _post(self, backend: Backend, changes: Document) -> httpx.Response:
        api, request, body = self._asked
        if backend.model != request["model"]:
            changes = {**changes, "model": backend.model}
        headers = {name: value for name, value in self._headers.items() if name not in _NOT_FORWARDED}
        headers |= {"accept-encoding": "identity", **backend.headers, **backend.attempt_headers(self._attempt)}
        sent = self._gateway.client.build_request(
            "POST",
            backend.url_of(api.path),
            content=json.dumps({**request, **changes}).encode() if changes else body,
            headers={**headers, **backend.authorization()},
            timeout=httpx.Timeout(backend.timeout, connect=_CONNECT_SECONDS, pool=None),
        )
        return await self._gateway.client.send(sent, stream=True)

    async def _pass_on(self, response: httpx.Response) -> None:
        if self._record is not None:
            self._record.status = response.status_code
            self._record.model_version = response.headers.get(VERSION_HEADER) or self._record.model_version
        streamed = response.headers.get("content-type", "").startswith(EVENT_STREAM)
        rewriting = self._rewriting(response, streamed=streamed)
        try:
            if streamed:
                await self._pass_on_stream(response, StreamRelay(self._reader, rewriting))
            else:
                await self._pass_on_document(response, rewriting)
        except httpx.RequestError as error:
            if self._record is not None:
                self._record.outcome = "cut"
            what = f"The answer of the backend broke off: {type(error).__name__}: {error}"
            raise GatewayError(502, what, "answer_cut") from error

    def _rewriting(self, response: httpx.Response, *, streamed: bool) -> Rewriting | None:
        if self._asked.api is not self._api:
            return MessageRewriting(str(self._request["model"]))
        # The usage is asked for in streams only, and part of whole answers anyway.
        extras = tuple(each for each in self._extras if streamed or each != "usage")
        if not extras or not response.is_success:
            return None
        return Hiding(self._api.hides(self._request, extras), functools.partial(self._api.drops, extras=extras))

    async def _pass_on_document(self, response: httpx.Response, rewriting: Rewriting | None) -> None:
        raw = await response.aread()
        document = parsed(raw)
        if document is not None:
            self._reader.read_document(document)
            if rewriting is not None:
                raw = rewriting.document(raw, document, response.status_code)
        if self._record is not None:
            self._record.outcome = "completed"
            if response.is_error:
                said = self._reader.answer().error or raw[:500].decode(errors="replace")
                self._record.error = f"status {response.status_code}: {said}"
        await self._commit()
        await self._begin(response, len(raw))
        await self._send({"type": "http.response.body", "body": raw})

    async def _pass_on_stream(self, response: httpx.Response, relay: StreamRelay) -> None:
        await self._begin(response, None)
        async for chunk in response.aiter_bytes():
            if self._record is not None:
                self._record.first_chunk_time = self._record.first_chunk_time or time.time()
            if out := relay.feed(chunk):
                await self._send({"type": "http.response.body", "body": out, "more_body": True})
        relay.finish()
        if self._record is not None:
            self._record.outcome = "completed" if relay.complete else "cut"
            if not relay.complete:
                self._record.error = "the backend ended the stream before the answer had ended"
        await self._commit()
        await self._send({"type": "http.response.body", "body": relay.held})

    async def _begin(self, response: httpx.Response, length: int | None) -> None:
        """Sends the head of the answer."""
        headers = [
            (name.lower(), value)
            for name, value in response.headers.raw
            if name.decode("latin-1").lower() not in _NOT_RETURNED
        ]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        self._began = True

    async def _commit(self) -> None:
        """Returns when the call is recorded, as far as it is to be; for the second time at once."""
        if self._record is None or self._reserved is None:
            return
        sequence_id = await asyncio.shield(self._reserved)
        record, self._record = self._record, None
        if sequence_id is not None:
            await self._gateway.commit(record.span(sequence_id, self._reader.answer()))

    async def _fail(self, error: GatewayError) -> None:
        """Answers with an error, or, where an answer has begun, ends it so that nobody takes it for whole."""
        if self._record is not None:
            self._record.error = self._record.error or error.message
            self._record.status = self._record.status or error.status
        with suppress(GatewayError):
            await self._commit()
        protocol = self._api.protocol
        if not self._began:
            await send_error(self._send, error, protocol)
            return
        name = "error" if protocol == "anthropic" else None
        out = event(error_document(error, protocol), name)
        # No last part follows, so the connection is cut.
        await self._send({"type": "http.response.body", "body": out, "more_body": True})


async def send_error(send: Send, error: GatewayError, protocol: Protocol) -> None:
    """Sends the whole answer that an error is."""
    body = error_body(error, protocol)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(round(error.retry_after)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

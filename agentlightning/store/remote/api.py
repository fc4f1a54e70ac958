"""`StoreApi` forwarded over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from agentlightning.store import status
from agentlightning.store.api import DEFAULT_EXPERIMENT, LONGEST_POLL, MAX_MESSAGE_BYTES, CallContext, StoreApi
from agentlightning.store.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    StoreError,
    Unavailable,
    Unimplemented,
)
from agentlightning.store.methods import EXPERIMENT_KEY, METHODS, Method
from agentlightning.store.remote.channels import Channels, OpenChannel, parse_addresses
from agentlightning.store.remote.retries import Budgets, RetryPolicy, is_repeatable
from lightning_store import v1

_TURN = 1.0
"""Seconds to wait for a connection to one server of several."""


class Remote:
    """Sends the calls of `StoreApi` to one of the servers of a store. Safe to use from any thread and any event loop.

    A call that fails because the server cannot be reached, is overloaded or answers late is sent again where that
    cannot do harm, within the budgets of the retry policy. Any other is sent once, as soon as there is a connection.
    A store with several servers is one that any of them serves: when one fails, the next is tried at once.

    Args:
        address: As `parse_addresses` takes it. Nothing is connected before the first call.
        request_timeout: Seconds to wait for each answer, on top of what the call itself asks to wait.
        retries: When and how long to try again.

    Raises:
        ValueError: The address is none.
    """

    def __init__(self, address: str, *, request_timeout: float = 30.0, retries: RetryPolicy | None = None) -> None:
        self.request_timeout = request_timeout
        self.retries = retries or RetryPolicy()
        self.was_connected = False
        self._channels = Channels(parse_addresses(address))

    @property
    def target(self) -> str:
        """`host:port` of the server that is worked with."""
        return self._channels.target

    async def close(self) -> None:
        """Close the connections; a later call opens them again."""
        await self._channels.close()

    async def call(self, method: Method, context: CallContext, request: Message) -> Any:
        """Send a request and return the answer."""
        data = request.SerializeToString()
        if len(data) > MAX_MESSAGE_BYTES:
            raise InvalidArgument(
                f"{method.rpc}: the request has {len(data)} bytes; at most {MAX_MESSAGE_BYTES} can be sent. Split it.",
                reason="MESSAGE_TOO_LARGE",
                metadata={"bytes": str(len(data)), "limit": str(MAX_MESSAGE_BYTES)},
            )
        timeout = self.request_timeout if context.timeout is None else context.timeout
        if isinstance(request, v1.DequeueRolloutsRequest):
            timeout += min(max(request.wait.ToNanoseconds() / 1e9, 0.0), LONGEST_POLL)
        budgets: Budgets | None = None
        may_repeat = is_repeatable(request)
        if not may_repeat:
            await self._connect()
        untried = len(self._channels.targets) - 1
        while True:
            here = self._channels.get()
            try:
                answer = await _callable(here, method)(data, timeout=timeout, metadata=_metadata(context))
            except grpc.aio.AioRpcError as failure:
                error = self._failed(here, method, failure)
                if budgets is None:
                    budgets = Budgets(self.retries, was_connected=self.was_connected)
                delay = budgets.delay_after(error) if may_repeat else None
                if delay is None:
                    raise error from None
                if untried:
                    untried, delay = untried - 1, 0.0
                await asyncio.sleep(delay)
            else:
                self.was_connected = True
                return answer

    async def stream(self, method: Method, context: CallContext, request: Message) -> AsyncGenerator[Any, None]:
        """Send a request and yield the messages of the answer. A stream that breaks is not begun again."""
        here = self._channels.get()
        call = _callable(here, method)(
            request.SerializeToString(), timeout=context.timeout, metadata=_metadata(context)
        )
        try:
            async for message in call:
                self.was_connected = True
                yield message
        except grpc.aio.AioRpcError as failure:
            raise self._failed(here, method, failure) from None
        finally:
            call.cancel()

    async def _connect(self) -> None:
        """Wait for a connection as long as there is hope for one: until there is one, nothing was sent."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.retries.patience(was_connected=self.was_connected)
        is_only = len(self._channels.targets) == 1
        while (left := end - loop.time()) > 0:  # without a connection, the call itself says why
            here = self._channels.get()
            if here.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                return
            # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes with the connection.
            ready = asyncio.ensure_future(here.channel.channel_ready())
            try:
                done, _ = await asyncio.wait({ready}, timeout=left if is_only else min(left, _TURN))
            finally:
                ready.cancel()
            if done:
                return
            self._channels.leave(here.target)

    def _failed(self, here: OpenChannel, method: Method, failure: grpc.aio.AioRpcError) -> StoreError:
        """Return the error of a call, and leave a server that could not be reached or did not answer."""
        error = self._error(here, method, failure)
        if isinstance(error, (DeadlineExceeded, Unavailable)):
            self._channels.leave(here.target)
        return error

    def _error(self, here: OpenChannel, method: Method, failure: grpc.aio.AioRpcError) -> StoreError:
        trailing = failure.trailing_metadata() or ()
        error = status.decode(failure.code(), failure.details() or "", trailing)  # type: ignore[arg-type]
        if isinstance(error, ResourceExhausted) and error.reason == "RESOURCE_EXHAUSTED":
            # Not the store's word but that of the transport, which gives no details: a message is too large.
            error = ResourceExhausted(
                f"{method.rpc}: a message is too large for the store at {here.target}: {error.message}",
                reason="MESSAGE_TOO_LARGE",
            )
        if isinstance(error, Unimplemented):
            error = Unimplemented(
                f"The server at {here.target} does not know the call {method.rpc}: it is older than this client, or no "
                "store. Update servers before clients.",
                reason="UNKNOWN_METHOD",
                metadata={"method": method.path},
            )
        # A server that ends cancels the calls that have not reached it yet; our own cancellations are no errors.
        if failure.code() is grpc.StatusCode.CANCELLED or error.reason == "UNAVAILABLE":
            error = Unavailable(
                f"The store at {here.target} cannot be reached: {error.message}", reason="SERVER_UNREACHABLE"
            )
        return error


def _callable(here: OpenChannel, method: Method) -> Any:
    found = here.callables.get(method.name)
    if found is None:
        make = here.channel.unary_stream if method.streams else here.channel.unary_unary
        found = here.callables[method.name] = make(
            method.path, request_serializer=None, response_deserializer=method.response.FromString
        )
    return found


def _metadata(context: CallContext) -> tuple[tuple[str, str], ...]:
    return () if context.experiment == DEFAULT_EXPERIMENT else ((EXPERIMENT_KEY, context.experiment),)


def _unary(method: Method) -> Callable[[Remote, CallContext, Message], Awaitable[Any]]:
    async def call(self: Remote, context: CallContext, request: Message) -> Any:
        return await self.call(method, context, request)

    return call


def _streaming(method: Method) -> Callable[[Remote, CallContext, Message], AsyncGenerator[Any, None]]:
    def call(self: Remote, context: CallContext, request: Message) -> AsyncGenerator[Any, None]:
        return self.stream(method, context, request)

    return call


_FORWARDED = {method.name: (_streaming if method.streams else _unary)(method) for method in METHODS}

if TYPE_CHECKING:

    class RemoteApi(Remote, StoreApi):
        """A `Remote` with every method of `StoreApi`."""

else:
    RemoteApi = type("RemoteApi", (Remote,), {"__doc__": "A `Remote` with every method of `StoreApi`.", **_FORWARDED})


def connect(address: str, **settings: Any) -> RemoteApi:
    """Return the store at an address; the settings are those of `Remote`."""
    # Its methods are made from the contract, which a type checker cannot see.
    return RemoteApi(address, **settings)  # type: ignore[abstract]

"""Any `StoreApi` on gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import grpc.aio

from agentlightning.store import status
from agentlightning.store.api import DEFAULT_EXPERIMENT, CallContext, StoreApi
from agentlightning.store.errors import Internal, StoreError, Unavailable
from agentlightning.store.methods import EXPERIMENT_KEY, METHODS, SERVICES, Method

logger = logging.getLogger(__name__)

UnaryMethod = Callable[[CallContext, Any], Awaitable[Any]]
StreamMethod = Callable[[CallContext, Any], AsyncGenerator[Any, None]]
Context = grpc.aio.ServicerContext[Any, Any]


class LongCalls:
    """The calls that may last: waits and streams, which a stopping server ends so that their clients look elsewhere."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the current task in; when the server stops, it ends with `Unavailable`."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._ended:
                raise _shutting_down()
            yield
        except asyncio.CancelledError:
            if self._ended:
                raise _shutting_down() from None
            raise
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """End them all, now and from now on."""
        self._ended = True
        for task in self._tasks:
            task.cancel()


def _shutting_down() -> Unavailable:
    return Unavailable("The server is shutting down.", reason="SHUTTING_DOWN", retry_after=1.0)


def handlers(api: StoreApi, long_calls: LongCalls) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Return the handlers of every service of the contract."""
    return [
        grpc.method_handlers_generic_handler(
            service,
            {method.rpc: _handler(method, api, long_calls) for method in METHODS if method.service == service},
        )
        for service in SERVICES
    ]


def call_context(context: Context) -> CallContext:
    """Return what a call carries beside its request."""
    experiment = DEFAULT_EXPERIMENT
    for key, value in context.invocation_metadata() or ():
        if key == EXPERIMENT_KEY:
            experiment = value if isinstance(value, str) else value.decode()
    return CallContext(
        experiment=experiment,
        timeout=context.time_remaining(),
        is_present=lambda: not context.cancelled(),
    )


async def abort(context: Context, error: Exception) -> NoReturn:
    """End a call with an error. What the contract does not name is logged, and its details stay here."""
    if not isinstance(error, StoreError):
        logger.error("A call failed for a reason that is not the caller's.", exc_info=error)
        error = Internal("The store failed; its log says how.", reason="INTERNAL")
    await context.abort(
        status.status_code(error),
        error.message,
        trailing_metadata=((status.DETAILS_KEY, status.encode(error)),),
    )
    raise AssertionError("abort() raises")


def _handler(method: Method, api: StoreApi, long_calls: LongCalls) -> grpc.RpcMethodHandler[Any, Any]:
    bound = getattr(api, method.name)
    codecs = {
        "request_deserializer": method.request.FromString,
        "response_serializer": method.response.SerializeToString,
    }
    if method.streams:
        return grpc.unary_stream_rpc_method_handler(_streaming(bound, long_calls), **codecs)
    if method.name == "dequeue_rollouts":
        bound = _waiting(bound, long_calls)
    return grpc.unary_unary_rpc_method_handler(_unary(bound), **codecs)


def _unary(method: UnaryMethod) -> Callable[[Any, Context], Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        try:
            return await method(call_context(context), request)
        except Exception as error:  # noqa: BLE001  the one place where errors leave for the wire
            await abort(context, error)

    return handle


def _waiting(method: UnaryMethod, long_calls: LongCalls) -> UnaryMethod:
    async def call(context: CallContext, request: Any) -> Any:
        with long_calls.running():
            return await method(context, request)

    return call


def _streaming(method: StreamMethod, long_calls: LongCalls) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        messages = method(call_context(context), request)
        try:
            with long_calls.running():
                async for message in messages:
                    yield message
        except Exception as error:  # noqa: BLE001  the one place where errors leave for the wire
            await abort(context, error)
        finally:
            await messages.aclose()

    return handle

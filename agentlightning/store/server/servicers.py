"""Any `StoreApi` on gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from agentlightning.store import status
from agentlightning.store.api import DEFAULT_EXPERIMENT, CallContext, StoreApi
from agentlightning.store.engine.encoding import encoded_spans
from agentlightning.store.errors import InvalidArgument, Unavailable, Unimplemented
from agentlightning.store.methods import EXPERIMENT_KEY, METHODS, SERVICES, Method
from agentlightning.store.server.admission import Admission
from agentlightning.store.server.dismissal import Dismissal, UnaryMethod
from lightning_store import v1

StreamMethod = Callable[[CallContext, Any], AsyncGenerator[Any, None]]
Context = grpc.aio.ServicerContext[Any, Any]

M = TypeVar("M", bound=Message)


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


def handlers(
    api: StoreApi, long_calls: LongCalls, dismissal: Dismissal, admission: Admission
) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Return the handlers of every service of the contract."""
    return [
        grpc.method_handlers_generic_handler(
            service,
            {
                method.rpc: _handler(method, api, long_calls, dismissal, admission)
                for method in METHODS
                if method.service == service
            },
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


def parse(kind: type[M], data: bytes) -> M:
    """Return a request. Handlers parse for themselves, because gRPC answers a bad one without details.

    Raises:
        InvalidArgument: The bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(
            f"The request is no {kind.DESCRIPTOR.name}: {error}", reason="MALFORMED_REQUEST"
        ) from error


async def abort(context: Context, error: Exception) -> NoReturn:
    """End a call with an error."""
    told = status.public_error(error)
    await context.abort(
        status.status_code(told),
        status.message(told),
        trailing_metadata=((status.DETAILS_KEY, status.encode(told)),),
    )
    raise AssertionError("abort() raises")


def _handler(
    method: Method, api: StoreApi, long_calls: LongCalls, dismissal: Dismissal, admission: Admission
) -> grpc.RpcMethodHandler[Any, Any]:
    bound = getattr(api, method.name)
    serializer = method.response.SerializeToString
    encoded = getattr(api, f"encoded_{method.name}", None)
    if encoded is not None:
        return grpc.unary_unary_rpc_method_handler(_unary(method, encoded, admission))
    add_encoded = getattr(api, "add_encoded_spans", None)
    if method.name == "add_spans" and add_encoded is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary_of_bytes(
                lambda context, data: add_encoded(context, parse(v1.AddSpansRequest, data), list(encoded_spans(data))),
                admission,
            ),
            response_serializer=serializer,
        )
    if method.streams:
        stream = _streaming(method, bound, long_calls)
        return grpc.unary_stream_rpc_method_handler(stream, response_serializer=serializer)
    if method.name == "dequeue_rollouts":
        bound = _waiting(dismissal.of_claims(bound), long_calls)
    elif method.name == "update_worker":
        bound = dismissal.of_heartbeats(bound)
    return grpc.unary_unary_rpc_method_handler(_unary(method, bound, admission), response_serializer=serializer)


def _unary(method: Method, call: UnaryMethod, admission: Admission) -> Callable[[bytes, Context], Awaitable[Any]]:
    return _unary_of_bytes(lambda context, data: call(context, parse(method.request, data)), admission)


def _unary_of_bytes(
    call: Callable[[CallContext, bytes], Awaitable[Any]], admission: Admission
) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def handle(data: bytes, context: Context) -> Any:
        try:
            with admission.taken(len(data)):
                return await call(call_context(context), data)
        except Exception as error:  # noqa: BLE001  the one place where errors leave for the wire
            await abort(context, error)

    return handle


def _waiting(call: UnaryMethod, long_calls: LongCalls) -> UnaryMethod:
    async def held(context: CallContext, request: Any) -> Any:
        with long_calls.running():
            return await call(context, request)

    return held


def _streaming(
    method: Method, call: StreamMethod, long_calls: LongCalls
) -> Callable[[bytes, Context], AsyncIterator[Any]]:
    async def handle(data: bytes, context: Context) -> AsyncIterator[Any]:
        try:
            async with aclosing(call(call_context(context), parse(method.request, data))) as messages:
                with long_calls.running():
                    async for message in messages:
                        yield message
        except Exception as error:  # noqa: BLE001  the one place where errors leave for the wire
            await abort(context, error)

    return handle


class UnknownMethods(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers calls of methods that no handler before it knows, with details as every error has them."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler for any method."""
        name = handler_call_details.method
        error = Unimplemented(f"This server has no method {name}.", reason="UNKNOWN_METHOD", metadata={"method": name})

        async def handle(data: bytes, context: Context) -> NoReturn:
            await abort(context, error)

        return grpc.unary_unary_rpc_method_handler(handle)

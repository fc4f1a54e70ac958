"""Callers that go away, or that give an answer so much time and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from agentlightning.rest.presence import departure
from agentlightning.store.api import CallContext
from agentlightning.store.errors import DeadlineExceeded, InvalidArgument
from agentlightning.store.methods import EXPERIMENT_KEY

_TIMEOUT: Final = "connect-timeout-ms"
_MOST_DIGITS: Final = 10


@asynccontextmanager
async def waiting_caller(headers: Headers, receive: Receive, experiment: str) -> AsyncIterator[CallContext]:
    """Gives what a call carries beside its request, and ends the work on it when nobody waits for the answer any more.

    Args:
        headers: The headers of the request, whose body must have been received.
        receive: Tells when the caller has gone.
        experiment: The experiment of a call that names none.

    Raises:
        ClientDisconnect: The caller has gone.
        DeadlineExceeded: The time that the caller gave has passed.
        InvalidArgument: A header cannot be what it is.
    """
    name, timeout = _experiment(headers, experiment), _timeout(headers)
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    fault: Exception | None = None

    def end(why: Exception) -> None:
        nonlocal fault
        if fault is None:
            fault = why
            task.cancel()

    def notice(leaving: asyncio.Task[None]) -> None:
        if not leaving.cancelled():
            end(ClientDisconnect())

    leaving = loop.create_task(departure(receive))
    leaving.add_done_callback(notice)
    alarm = None if timeout is None else loop.call_later(timeout, end, _late(timeout))
    try:
        yield CallContext(experiment=name, timeout=timeout, is_present=lambda: fault is None)
    except asyncio.CancelledError:
        if fault is None:
            raise
        raise fault from None
    finally:
        leaving.cancel()
        if alarm is not None:
            alarm.cancel()


def _experiment(headers: Headers, default: str) -> str:
    name = headers.get(EXPERIMENT_KEY, default)
    if not (name.isascii() and name.isprintable()):  # gRPC could not pass it on
        raise InvalidArgument(
            f"{EXPERIMENT_KEY} must be printable ASCII, not {name[:300]!r}.",
            reason="INVALID_ID",
            metadata={"field": EXPERIMENT_KEY},
        )
    return name


def _timeout(headers: Headers) -> float | None:
    text = headers.get(_TIMEOUT)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise InvalidArgument(
            f"{_TIMEOUT} must be milliseconds, at most {_MOST_DIGITS} digits, not {text[:40]!r}.",
            reason="MALFORMED_REQUEST",
        )
    return int(text) / 1000


def _late(timeout: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"There was no answer within {timeout:g} s.", reason="DEADLINE_EXCEEDED")

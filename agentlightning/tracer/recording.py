"""The spans of one attempt while it runs, on their way to the store."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from agentlightning.types import Span
from agentlightning.utils.threads import background_loop

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

LINGER_SECONDS: Final = 1.0
"""How long a span waits for company. A rollout that is shorter costs one call, a long one shows signs of life."""
BATCH_SPANS: Final = 256
"""Most spans in one call."""
BATCH_BYTES: Final = 1 << 20
"""Rough size of one call at which no further span is added; well below what a server takes in one message."""
MOST_FAILURES: Final = 5
"""How often in a row the background tries to send. After that only `flush` or a new span has it try again."""
BACKLOG_BYTES: Final = 32 << 20
"""Unsent spans of one attempt at which a thread that ends a span has to wait."""
BACKLOG_WAIT_SECONDS: Final = 30.0
"""Longest such wait. A store that is away for longer costs memory rather than spans."""
_LOOK_AGAIN_SECONDS: Final = 0.005


class Recording:
    """The trace of one attempt, or of a block that belongs to none.

    Any thread may add spans. They leave in batches, from the background loop while the attempt runs and from the
    caller's with `flush`, and stay in memory as well, for hooks and for the reward to be found.
    """

    def __init__(self, rollout_id: str = "", attempt_id: str = "", store: LightningStore | None = None) -> None:
        """Starts an empty trace.

        Args:
            rollout_id: The rollout; empty for none.
            attempt_id: Its attempt.
            store: Where the spans go; None keeps them in memory only. A store that is not thread-safe is called
                on the running event loop.
        """
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self.trace_id = secrets.randbits(128)
        self._spans: list[Span] = []
        self._sizes: list[int] = []
        self._keys: set[tuple[str, str]] = set()
        self._sent = 0
        self._backlog = 0
        self._refusal: Exception | None = None
        self._armed = False
        self._failures = 0
        self._sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._pump: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._store = store
        if store is not None:
            thread_safe = store.capabilities.get("thread_safe", False)
            self._loop = background_loop() if thread_safe else asyncio.get_running_loop()

    @property
    def spans(self) -> list[Span]:
        """The spans so far, in the order in which they were added."""
        with self._lock:
            return list(self._spans)

    def add(self, span: Span) -> None:
        """Adds a finished span. One that is there already is left out."""
        key = (span.trace_id, span.span_id)
        size = _rough_size(span)
        with self._lock:
            if key in self._keys:
                return
            self._keys.add(key)
            self._spans.append(span)
            self._sizes.append(size)
            if self._store is None:
                return
            self._backlog += size
            full = self._backlog >= BATCH_BYTES or len(self._spans) - self._sent >= BATCH_SPANS
            wake = full or not self._armed
            self._armed = True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._arm, full)
            except RuntimeError:
                logger.debug("span %s ended after its event loop was closed", span.name)
        if self._backlog > BACKLOG_BYTES:
            self._wait_for_room()

    async def flush(self) -> None:
        """Returns once the store has acknowledged every span.

        Raises:
            Exception: What the store answered when it refused a span, or when it cannot be reached.
        """
        while not await self._drain():  # noqa: ASYNC110 - no event of asyncio works across loops
            # The background is at it, on another loop.
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        if self._refusal is not None:
            raise self._refusal

    async def flush_or_log(self) -> None:
        """Does what `flush` does, and logs what that raises."""
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001 - whoever depends on the spans calls flush
            logger.warning("spans of rollout %s could not be sent yet: %s", self.rollout_id, error)

    def _arm(self, now: bool) -> None:
        if self._pump is not None:
            return
        if now:
            if self._timer is not None:
                self._timer.cancel()
            self._start_pump()
        elif self._timer is None:
            self._timer = self._loop.call_later(LINGER_SECONDS, self._start_pump)

    def _start_pump(self) -> None:
        self._timer = None
        self._pump = self._loop.create_task(self._pump_once())

    async def _pump_once(self) -> None:
        try:
            await self._drain()
            self._failures = 0
        except Exception as error:  # noqa: BLE001 - nobody waits here; flush tries again and reports
            self._failures += 1
            logger.warning("spans of rollout %s could not be sent yet: %s", self.rollout_id, error)
            # A store that is away is asked again no sooner than a new span would have it asked.
            await asyncio.sleep(LINGER_SECONDS)
        finally:
            self._pump = None
            with self._lock:
                self._armed = self._sent < len(self._spans) and self._failures < MOST_FAILURES
                again = self._armed
            if again:
                self._arm(False)
            else:
                self._failures = 0

    async def _drain(self) -> bool:
        """Sends what is unsent, on the running loop; returns False if somebody else is at it."""
        with self._lock:
            if self._sent == len(self._spans) or self._store is None:
                return True
            if self._sending:
                return False
            self._sending = True
        try:
            # An instrumented gRPC library would otherwise record the sending of spans as spans to send.
            with nowhere():
                while batch := self._next_batch():
                    self._acknowledge(len(batch), await self._send(batch))
        finally:
            self._sending = False
        return True

    async def _send(self, batch: list[Span]) -> Sequence[Span]:
        assert self._store is not None
        try:
            return await self._store.add_many_spans(batch)
        except (TypeError, ValueError) as error:
            if len(batch) > 1:
                # One bad span must not take the others of its batch with it.
                return [stored for span in batch for stored in await self._send([span])]
            logger.error("the store refused span %r of rollout %s: %s", batch[0].name, self.rollout_id, error)
            self._refusal = error
            return []

    def _next_batch(self) -> list[Span]:
        with self._lock:
            end = self._sent
            size = 0
            while end < len(self._spans) and end - self._sent < BATCH_SPANS and size < BATCH_BYTES:
                size += self._sizes[end]
                end += 1
            return self._spans[self._sent : end]

    def _acknowledge(self, count: int, stored: Sequence[Span]) -> None:
        numbers = {(span.trace_id, span.span_id): span.sequence_id for span in stored}
        with self._room:
            for index in range(self._sent, self._sent + count):
                span = self._spans[index]
                if not span.sequence_id:
                    span.sequence_id = numbers.get((span.trace_id, span.span_id), 0)
                self._backlog -= self._sizes[index]
            self._sent += count
            self._room.notify_all()

    def _wait_for_room(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            # Waiting would stop the very loop that may have to send.
            return
        deadline = time.monotonic() + BACKLOG_WAIT_SECONDS
        with self._room:
            while self._backlog > BACKLOG_BYTES:
                if not self._room.wait(timeout=deadline - time.monotonic()):
                    logger.warning("the store takes no spans of rollout %s; keeping them in memory", self.rollout_id)
                    return


NOWHERE: Final = Recording()
"""Stands for code whose spans belong to no attempt, such as this library's own calls."""

_current: ContextVar[Recording | None] = ContextVar("agentlightning_recording", default=None)
_last: ContextVar[Recording | None] = ContextVar("agentlightning_last_recording", default=None)
_open: Counter[Recording] = Counter()
_open_lock = threading.Lock()


def current_recording() -> Recording | None:
    """Returns the recording that the running code belongs to, or None.

    Code in a thread without inherited context belongs to the only open recording, if there is exactly one.
    """
    recording = _current.get()
    if recording is not None:
        return None if recording is NOWHERE else recording
    with _open_lock:
        return next(iter(_open)) if len(_open) == 1 else None


def last_recording() -> Recording | None:
    """Returns the recording that is open in this context or was open in it last."""
    return _last.get()


def remember(recording: Recording | None) -> None:
    """Makes `recording` what `last_recording` returns in this context, where it was never open."""
    _last.set(recording)


@contextmanager
def opened(recording: Recording) -> Iterator[Recording]:
    """Makes the block, and the tasks and threads that inherit its context, belong to `recording`."""
    token = _current.set(recording)
    _last.set(recording)
    try:
        with _counted_as_open(recording):
            yield recording
    finally:
        _current.reset(token)


@contextmanager
def staying_open() -> Iterator[None]:
    """Keeps the recording that the block belongs to among the open ones until the block ends.

    This is for what may be left behind when the recording itself is over. A thread that it starts without its context
    would otherwise pass for a part of the only recording that is open then.
    """
    recording = _current.get()
    if recording is None or recording is NOWHERE:
        yield
        return
    with _counted_as_open(recording):
        yield


@contextmanager
def _counted_as_open(recording: Recording) -> Iterator[None]:
    with _open_lock:
        _open[recording] += 1
    try:
        yield
    finally:
        with _open_lock:
            _open[recording] -= 1
            if not _open[recording]:
                del _open[recording]


@contextmanager
def nowhere() -> Iterator[None]:
    """Makes the block belong to no recording, whichever ones are open."""
    token = _current.set(NOWHERE)
    try:
        yield
    finally:
        _current.reset(token)


def _rough_size(span: Span) -> int:
    return 300 + _value_size(span.attributes) + sum(100 + _value_size(event.attributes) for event in span.events)


def _value_size(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _value_size(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        # Lists of token ids are long and alike: their first item speaks for all.
        return len(value) * (_value_size(value[0]) + 2) if value else 0
    return 8

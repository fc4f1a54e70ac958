"""What every tracer offers to runners, emitters and hooks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from agentlightning.tracer.active import clear_active_tracer as clear_active_tracer
from agentlightning.tracer.active import get_active_tracer as get_active_tracer
from agentlightning.tracer.active import set_active_tracer as set_active_tracer
from agentlightning.tracer.recording import last_recording, remember
from agentlightning.types import Attributes, ParallelWorkerBase, Span, SpanCoreFields, SpanRecordingContext, TraceStatus
from agentlightning.utils.callables import is_coroutine_callable
from agentlightning.utils.threads import background_loop, run_in_thread

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)


class Tracer(ParallelWorkerBase):
    """Records spans. One tracer serves one worker; `init_worker` tells it where the spans go."""

    _store: LightningStore | None = None

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        """Prepares the tracer in the worker that will use it.

        Args:
            worker_id: Number of the worker.
            store: Where the spans of attempts go.
        """
        super().init_worker(worker_id)
        self._store = store

    def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AbstractAsyncContextManager[Any]:
        """Records what runs in the block, and in the tasks and threads that inherit its context.

        Args:
            name: What the trace is called, for people.
            store: Where the spans go; that of `init_worker` unless given.
            rollout_id: The rollout that they belong to. Without one the spans are kept in memory only.
            attempt_id: Its attempt; given together with `rollout_id` or not at all.

        Raises:
            ValueError: Only one of the ids is given, or a trace is open already.
        """
        raise NotImplementedError

    def get_last_trace(self) -> list[Span]:
        """Returns the spans of the trace that is open in this context or was open in it last, in the order of their
        ends."""
        raise NotImplementedError

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        """Adds a span without duration to the open trace.

        Args:
            name: What the span is called.
            attributes: What it carries.
            timestamp: When, in seconds since the epoch; now unless given.
            status: How it went; OK unless given.

        Raises:
            RuntimeError: No trace is open.
        """
        raise NotImplementedError

    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> AbstractContextManager[SpanRecordingContext]:
        """Adds a span that covers the block; spans made in it become its children.

        Args:
            name: What the span is called.
            attributes: What it carries from the start.
            start_time: When it began, in seconds since the epoch; now unless given.
            end_time: When it ended, in seconds since the epoch; the end of the block unless given.

        Raises:
            RuntimeError: No trace is open.
        """
        raise NotImplementedError

    def record_spans(self, spans: Sequence[Span]) -> bool:
        """Takes finished spans into the open trace, leaving out those that it has.

        Returns:
            False if this tracer cannot; the caller then sends them to the store itself.
        """
        return False

    async def flush(self) -> None:
        """Returns once the store has acknowledged every span of `get_last_trace`.

        Raises:
            Exception: The store refused spans or cannot be reached; what it answered.
        """

    @contextmanager
    def lifespan(self, store: LightningStore | None = None) -> Iterator[None]:
        """Sets the tracer up for the block, as worker 0, and takes it down after it."""
        self.init()
        try:
            self.init_worker(0, store)
            try:
                yield
            finally:
                self.teardown_worker(0)
        finally:
            self.teardown()

    def trace_run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls `func` and records what it does; see `get_last_trace`.

        The call runs in a thread of its own, with the caller's context and no event loop; this one waits for it.

        Raises:
            TypeError: `func` is async; `trace_run_async` is for those.
        """
        if is_coroutine_callable(func):
            raise TypeError("trace_run calls plain functions; await trace_run_async for an async one")

        trace = last_recording()

        async def traced() -> Any:
            nonlocal trace
            async with self.trace_context(name=getattr(func, "__name__", None)):
                trace = last_recording()
                return await run_in_thread(func, *args, **kwargs)

        running = asyncio.run_coroutine_threadsafe(traced(), background_loop())
        try:
            return running.result()
        finally:
            # Ctrl+C while waiting closes the trace.
            running.cancel()
            remember(trace)

    async def trace_run_async(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls `func`, awaits what it returns if that is awaitable, and records both; see `get_last_trace`."""
        async with self.trace_context(name=getattr(func, "__name__", None)):
            result = func(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

    def get_langchain_handler(self) -> Any:
        """Returns the handler that records a LangChain agent (`BaseCallbackHandler`), or None.

        A tracer that hears of LangChain's calls in another way, as `OtelTracer` does from instrumentations, needs none.
        """
        logger.warning("%s has no callback handler for LangChain; leave it out", type(self).__name__)
        return None

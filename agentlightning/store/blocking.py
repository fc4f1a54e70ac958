"""`BlockingStore`: any store, for code that does not await."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from agentlightning.utils.threads import background_loop

if TYPE_CHECKING:
    from typing_extensions import Self

    from agentlightning.store.base import LightningStore

T = TypeVar("T")

_END: Final = object()
# A signal that comes just before Python goes to sleep on a lock does not wake it.
_LOOK_SECONDS: Final = 1.0


class BlockingStore:
    """A store whose methods block until they are done, and whose async iterators are plain ones.

    It has the methods of the store that it is made of, with the same names and arguments:

        with BlockingStore(LightningStoreClient("127.0.0.1:4747")) as store:
            rollout = store.enqueue_rollout({"question": "..."})
            for finished in store.wait_iter(rollout_ids=[rollout.rollout_id]):
                print(finished.status)

    It may be used from several threads. What is no method that waits, such as `capabilities`, is the store's own.
    """

    def __init__(
        self,
        store: LightningStore,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        awaitable_on_loops: bool = False,
    ) -> None:
        """Wraps a store.

        Args:
            store: The store.
            loop: The event loop, running in another thread, that does the work; one of this process's own if None.
            awaitable_on_loops: Whether calls by code that runs on an event loop return an awaitable, or an async
                iterator, instead of blocking that loop. This is how synchronous algorithms are handed the store, so
                that they may call `asyncio.run` and await in there.
        """
        self._store = store
        self._given_loop = loop
        self._awaitable_on_loops = awaitable_on_loops
        self._pending: set[Future[Any] | _Call[Any]] = set()
        self._over: str | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        member = getattr(self._store, name)
        return self._blocking(member) if callable(member) else member

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self._store) if not name.startswith("_"))})

    def __repr__(self) -> str:
        return f"BlockingStore({self._store!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store, if it is one that can be closed, and lets go of it; see `detach`."""
        close = getattr(self._store, "close", None)
        closing = close() if close is not None and self._over is None else None
        if inspect.isawaitable(closing):
            self._wait(closing)
        self.detach("it has been closed")

    def detach(self, reason: str) -> None:
        """Lets go of the store: calls that wait now, and all that are made later, raise.

        Args:
            reason: What their `RuntimeError` says.
        """
        self._over = self._over or reason
        for pending in self._pending.copy():
            pending.cancel()

    def _blocking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._expect_attached()
            result = method(*args, **kwargs)
            awaits = self._awaitable_on_loops and _running_loop() is not None
            if isinstance(result, AsyncIterator):
                return self._iterate_async(result) if awaits else self._iterate(result)
            if inspect.isawaitable(result):
                return self._submit_async(result) if awaits else self._wait(result)
            return result

        return call

    def _wait(self, awaitable: Awaitable[T]) -> T:
        if _running_loop() is self._loop():
            _discard(awaitable)
            raise RuntimeError("a blocking call on the event loop that is to do the work would wait for itself")
        call = _Call(awaitable, self._loop())
        try:
            self._expect_attached()
            self._pending.add(call)
            call.begin()
            if self._over is not None:
                call.cancel()
            return call.result()
        except CancelledError:
            self._expect_attached()
            raise
        except BaseException:
            call.cancel()  # after Ctrl+C, at whichever moment it came, nobody waits for the answer any more
            raise
        finally:
            self._pending.discard(call)

    async def _submit_async(self, awaitable: Awaitable[T]) -> T:
        try:
            return await asyncio.wrap_future(self._submit(awaitable))
        except asyncio.CancelledError:
            self._expect_attached()
            raise

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        try:
            while (item := self._wait(_next(items))) is not _END:
                yield item
        finally:
            with suppress(RuntimeError):
                self._wait(_close(items))

    async def _iterate_async(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        try:
            while (item := await self._submit_async(_next(items))) is not _END:
                yield item
        finally:
            with suppress(RuntimeError):
                await self._submit_async(_close(items))

    def _submit(self, awaitable: Awaitable[T]) -> Future[T]:
        work = _awaiting(awaitable)
        try:
            self._expect_attached()
            future = asyncio.run_coroutine_threadsafe(work, self._loop())
        except RuntimeError:
            _discard(work)
            _discard(awaitable)
            raise
        # Without a lock: the collector may end another iterator of this store, and so get here again, at any moment.
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        if self._over is not None:
            future.cancel()
        return future

    def _expect_attached(self) -> None:
        if self._over is not None:
            raise RuntimeError(f"this store cannot be used any more: {self._over}")

    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._given_loop or background_loop()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _discard(awaitable: Awaitable[Any]) -> None:
    # A coroutine that nobody awaits would be warned about.
    if inspect.iscoroutine(awaitable):
        awaitable.close()


class _Call(Generic[T]):
    """What is awaited on a loop for a thread that waits.

    The thread holds no lock that is written in Python, as those of futures and events are: Ctrl+C may raise at any
    moment, and one that it leaves locked would stop the loop, and with it everybody's calls.

    Args:
        awaitable: What.
        loop: Where.
    """

    def __init__(self, awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop) -> None:
        self._awaitable = awaitable
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        self._is_off = False
        self._ended: SimpleQueue[asyncio.Task[T] | None] = SimpleQueue()

    def begin(self) -> None:
        """Have the loop await it; from any thread."""
        self._loop.call_soon_threadsafe(self._begin)

    def cancel(self) -> None:
        """End it, and the wait for it; from any thread."""
        self._ended.put(None)
        try:
            self._loop.call_soon_threadsafe(self._take_back)
        except RuntimeError:  # the loop is closed
            _discard(self._awaitable)

    def result(self) -> T:
        """Wait for the result.

        Raises:
            CancelledError: It was cancelled.
        """
        while True:
            try:
                task = self._ended.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            if task is None or task.cancelled():
                raise CancelledError
            return task.result()

    def _begin(self) -> None:
        if not self._is_off:
            self._task = asyncio.ensure_future(_awaiting(self._awaitable))
            self._task.add_done_callback(self._end)

    def _take_back(self) -> None:
        self._is_off = True
        if self._task is None:
            _discard(self._awaitable)
        else:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # a thread that has gone never looks at it
        self._ended.put(task)


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


async def _close(items: AsyncIterator[Any]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()

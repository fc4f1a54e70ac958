"""`LightningStoreThreaded`: any store, safe to use from several threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.types import Rollout

T = TypeVar("T")


class LightningStoreThreaded(LightningStore):
    """Makes a store safe to use from several threads: all its methods run on one event loop in one thread.

    No lock is held while a method waits, so a method that waits holds nobody up. The stores of this package are safe
    without it; it is for a class of your own that is not.

    Args:
        store: The store; from now on used through this object alone.
    """

    def __init__(self, store: LightningStore) -> None:
        self.store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {**self.store.capabilities, "thread_safe": True, "async_safe": True}

    def otlp_traces_endpoint(self) -> str:
        """Return what the store itself returns."""
        return self.store.otlp_traces_endpoint()

    def stop(self) -> None:
        """End the thread, and with it the calls that are under way; a later call starts another."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(_end(loop), loop)

    def wait_iter(self, *, rollout_ids: Any, timeout: float | None = None) -> AsyncGenerator[Rollout, None]:
        return self._iterate(rollout_ids, timeout)

    async def _iterate(self, rollout_ids: Any, timeout: float | None) -> AsyncGenerator[Rollout, None]:
        rollouts = self.store.wait_iter(rollout_ids=rollout_ids, timeout=timeout)
        try:
            while (rollout := await self._run(_next(rollouts))) is not None:
                yield rollout
        finally:
            await self._run(_close(rollouts))

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._started()))

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), name="agentlightning-store", daemon=True).start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    loop.call_soon(loop.stop)


async def _next(rollouts: AsyncGenerator[Rollout, None]) -> Rollout | None:
    async for rollout in rollouts:
        return rollout
    return None


async def _close(rollouts: AsyncGenerator[Rollout, None]) -> None:
    await rollouts.aclose()


def _forwarded(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: LightningStoreThreaded, *args: Any, **kwargs: Any) -> Any:
        return await self._run(getattr(self.store, name)(*args, **kwargs))

    call.__name__ = name
    call.__doc__ = getattr(LightningStore, name).__doc__
    return call


for _name, _member in inspect.getmembers(LightningStore, inspect.iscoroutinefunction):
    setattr(LightningStoreThreaded, _name, _forwarded(_name))

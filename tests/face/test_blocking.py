"""The store for code that does not await."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Any

import pytest

from agentlightning.store.base import LightningStore
from agentlightning.store.blocking import BlockingStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.server import LightningStoreServer
from agentlightning.types import EnqueueRolloutRequest
from agentlightning.utils.threads import background_loop


@pytest.fixture
def inner() -> InMemoryLightningStore:
    return InMemoryLightningStore()


@pytest.fixture
def store(inner: InMemoryLightningStore) -> Iterator[BlockingStore]:
    with BlockingStore(inner) as blocking:
        yield blocking


def test_calls_return_what_the_store_answers(store: BlockingStore) -> None:
    rollout = store.enqueue_rollout(input={"n": 1}, mode="train")
    claimed = store.dequeue_rollout("worker")
    assert claimed.rollout_id == rollout.rollout_id
    store.update_attempt(rollout.rollout_id, claimed.attempt.attempt_id, status="succeeded")
    (finished,) = store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=10)
    assert (finished.status, finished.input) == ("succeeded", {"n": 1})


def test_every_method_of_a_store_blocks(store: BlockingStore, inner: InMemoryLightningStore) -> None:
    names = [name for name, _ in inspect.getmembers(LightningStore, inspect.iscoroutinefunction)]
    assert len(names) > 20
    assert not [name for name in names if inspect.iscoroutinefunction(getattr(store, name))]
    assert store.query_rollouts.__doc__ == inner.query_rollouts.__doc__
    assert set(names) <= set(dir(store))
    assert "InMemoryLightningStore" in repr(store)


def test_errors_are_those_of_the_store(store: BlockingStore) -> None:
    with pytest.raises(ValueError, match="Rollout ro-none not found"):
        store.update_rollout("ro-none", status="cancelled")
    with pytest.raises(AttributeError, match="no_such_method"):
        store.no_such_method()


def test_what_does_not_wait_is_passed_through(store: BlockingStore, inner: InMemoryLightningStore) -> None:
    assert store.capabilities == inner.capabilities
    with pytest.raises(NotImplementedError):
        store.otlp_traces_endpoint()


def test_async_iterators_become_plain_ones(store: BlockingStore) -> None:
    rollouts = store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(3)])
    ids = [rollout.rollout_id for rollout in rollouts]
    for rollout_id in ids:
        store.update_rollout(rollout_id, status="cancelled")
    assert sorted(rollout.rollout_id for rollout in store.wait_iter(rollout_ids=ids)) == sorted(ids)


def test_leaving_an_iterator_early_ends_its_wait() -> None:
    ended = threading.Event()

    class Watched(InMemoryLightningStore):
        async def wait_iter(self, *, rollout_ids: Any, timeout: float | None = None) -> AsyncIterator[Any]:  # type: ignore[override]
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                ended.set()

    with BlockingStore(Watched()) as store:
        for _ in store.wait_iter(rollout_ids=["a"]):
            break
        assert ended.wait(10)


def test_an_iterator_that_is_collected_during_a_call_does_not_block_it(inner: InMemoryLightningStore) -> None:
    class Collecting(asyncio.SelectorEventLoop):
        at_the_next_call = False

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
            if self.at_the_next_call:
                self.at_the_next_call = False
                gc.collect()
            return super().call_soon_threadsafe(*args, **kwargs)

    def abandon(iterator: Iterator[Any]) -> None:
        next(iterator)
        cycle: list[Any] = [iterator]
        cycle.append(cycle)

    loop = Collecting()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    store = BlockingStore(inner, loop)
    rollout = store.enqueue_rollout("x")
    store.update_rollout(rollout.rollout_id, status="cancelled")
    gc.disable()
    try:
        abandon(store.wait_iter(rollout_ids=[rollout.rollout_id]))
        loop.at_the_next_call = True
        assert store.enqueue_rollout("y").status == "queuing"
        assert not loop.at_the_next_call
    finally:
        gc.enable()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    with pytest.raises(RuntimeError, match="loop is closed"):
        store.enqueue_rollout("z")


def test_threads_share_it(store: BlockingStore) -> None:
    def enqueue() -> None:
        for n in range(10):
            store.enqueue_rollout(n)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.query_rollouts()) == 40


async def test_it_blocks_where_a_loop_runs_as_in_a_notebook(store: BlockingStore) -> None:
    assert store.enqueue_rollout("x").status == "queuing"


async def test_a_call_that_would_wait_for_itself_is_refused(inner: InMemoryLightningStore) -> None:
    store = BlockingStore(inner, asyncio.get_running_loop())
    with pytest.raises(RuntimeError, match="wait for itself"):
        store.enqueue_rollout("x")
    assert len(await inner.query_rollouts()) == 0


async def test_calls_on_a_loop_can_be_awaited_instead(inner: InMemoryLightningStore) -> None:
    store = BlockingStore(inner, awaitable_on_loops=True)
    rollout = await store.enqueue_rollout("x")
    await store.update_rollout(rollout.rollout_id, status="cancelled")
    assert [found.status async for found in store.wait_iter(rollout_ids=[rollout.rollout_id])] == ["cancelled"]
    # In a thread without a loop the same object blocks.
    assert len(await asyncio.to_thread(store.query_rollouts)) == 1


async def test_calls_run_on_the_loop_that_is_given() -> None:
    class Noting(LightningStore):
        async def enqueue_rollout(self, *args: Any, **kwargs: Any) -> Any:
            return asyncio.get_running_loop()

    store = BlockingStore(Noting(), asyncio.get_running_loop(), awaitable_on_loops=True)
    assert await asyncio.to_thread(store.enqueue_rollout, "x") is asyncio.get_running_loop()
    assert await store.enqueue_rollout("x") is asyncio.get_running_loop()


@pytest.mark.parametrize("wait", ["wait_for_rollouts", "wait_iter"])
async def test_detaching_ends_what_waits_and_refuses_what_comes(inner: InMemoryLightningStore, wait: str) -> None:
    store = BlockingStore(inner, asyncio.get_running_loop())
    rollout = await inner.enqueue_rollout("x")
    began, outcome = threading.Event(), []

    def work() -> None:
        began.set()
        try:
            list(getattr(store, wait)(rollout_ids=[rollout.rollout_id]))
        except RuntimeError as error:
            outcome.append(str(error))

    working = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.to_thread(began.wait)
    store.detach("the run has ended")
    await asyncio.wait_for(working, 10)
    assert outcome == ["this store cannot be used any more: the run has ended"]
    with pytest.raises(RuntimeError, match="cannot be used any more: the run has ended"):
        store.enqueue_rollout("y")
    # The store itself is as it was.
    assert len(await inner.query_rollouts()) == 1


def test_ctrl_c_takes_the_call_back() -> None:
    began, taken_back = threading.Event(), threading.Event()

    class Waiting(LightningStore):
        async def dequeue_rollout(self, *args: Any, **kwargs: Any) -> Any:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                taken_back.set()

    def press() -> None:
        began.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        BlockingStore(Waiting()).dequeue_rollout(wait=60)
    assert taken_back.wait(60)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_ctrl_c_at_any_moment_of_a_call_leaves_the_loop_to_the_others(inner: InMemoryLightningStore) -> None:
    """Goes wrong when the interrupted thread holds a lock that the loop needs, for which a moment is enough."""
    store = BlockingStore(inner)
    store.enqueue_rollout("x")

    def interrupt_at(moment: int) -> bool:
        """Interrupt a call when so many lines of Python have run; tell whether it was still under way then."""
        left = moment

        def trace(frame: FrameType, *_: Any) -> Any:
            nonlocal left
            # The first has a lock of C, which tracing can leave locked and no signal. The second loses what it raises.
            if frame.f_code is background_loop.__code__ or "weakref" in frame.f_code.co_filename:
                return None
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            store.query_rollouts()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    moment = 1
    while interrupt_at(moment):
        other = threading.Thread(target=store.query_rollouts, daemon=True)
        other.start()
        other.join(30)
        assert not other.is_alive(), f"the call after one that was interrupted at moment {moment} is never answered"
        moment += 1
    assert moment > 20


def test_closing_closes_the_store(inner: InMemoryLightningStore) -> None:
    store = BlockingStore(inner)
    store.enqueue_rollout("x")
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="it has been closed"):
        store.query_rollouts()


async def test_a_script_reaches_a_server(inner: InMemoryLightningStore) -> None:
    server = LightningStoreServer(inner, "127.0.0.1", 0)
    await server.start()

    def script() -> str:
        with BlockingStore(LightningStoreClient(server.endpoint)) as store:
            rollout = store.enqueue_rollout({"question": "?"})
            store.update_rollout(rollout.rollout_id, status="cancelled")
            return str(next(iter(store.wait_iter(rollout_ids=[rollout.rollout_id]))).status)

    assert await asyncio.to_thread(script) == "cancelled"
    await server.stop()

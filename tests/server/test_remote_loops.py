"""One client serves several threads and event loops of a process, and lets go of those that have ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import pytest
from calls import AT_SUCCEEDED, HERE, add_spans, claim, dequeue, enqueue, ids, report, span, statistics, waiting_for
from store_process import StoreProcess

from agentlightning.store.remote.api import RemoteApi, connect
from lightning_store import v1


def run_rollouts(api: RemoteApi, name: str, count: int) -> list[str]:
    """Enqueue rollouts, run them and wait for them, on an event loop of this thread."""

    async def work_on_one(rollout_id: str) -> str:
        await enqueue(api, rollout_id, experiment=name)
        claimed = await dequeue(api, wait=10, experiment=name, claim_id=f"c-{rollout_id}")
        return claimed.claims[0].rollout.rollout_id

    async def work() -> list[str]:
        return list(await asyncio.gather(*(work_on_one(f"{name}-{number}") for number in range(count))))

    return asyncio.run(work())


@pytest.fixture
def api(server: StoreProcess) -> RemoteApi:
    """One client for all threads of a test."""
    return connect(server.address)


def test_threads_with_loops_of_their_own_share_a_client(api: RemoteApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncio")
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda name: run_rollouts(api, name, 40), [f"t{number}" for number in range(6)]))
    for number, result in enumerate(results):
        assert sorted(result) == sorted(f"t{number}-{at}" for at in range(40))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    asyncio.run(api.close())


def test_a_stream_of_one_loop_hears_of_what_another_does(api: RemoteApi) -> None:
    waiting = threading.Event()
    heard: list[str] = []

    async def wait() -> None:
        stream = waiting_for(api, "first", "second", timeout=20)
        async for message in stream:
            if message.HasField("finished"):
                heard.append(message.finished.rollout_id)
                waiting.set()

    async def begin() -> None:
        await enqueue(api, "first", "second")
        await report(api, await claim(api), AT_SUCCEEDED)

    async def end() -> None:
        attempt = await claim(api)
        await add_spans(api, span(attempt))
        await report(api, attempt, AT_SUCCEEDED)

    asyncio.run(begin())
    waiter = threading.Thread(target=lambda: asyncio.run(wait()))
    waiter.start()
    assert waiting.wait(10)
    asyncio.run(end())
    waiter.join(10)
    assert heard == ["first", "second"]
    asyncio.run(api.close())


def test_channels_of_loops_that_have_ended_are_let_go(api: RemoteApi) -> None:
    channels: list[weakref.ref[grpc.aio.Channel]] = []

    async def call() -> None:
        await api.get_server_info(HERE, v1.GetServerInfoRequest())
        channels.append(weakref.ref(api._channels.get().channel))  # noqa: SLF001  nothing else shows them

    for _ in range(5):
        asyncio.run(call())
    gc.collect()
    assert sum(channel() is not None for channel in channels) == 1
    asyncio.run(api.close())


async def test_a_client_that_was_closed_connects_again(api: RemoteApi) -> None:
    first = await statistics(api)
    await api.close()
    await api.close()
    assert (await statistics(api)).storage == first.storage
    await api.close()


async def test_close_reaches_the_channels_of_other_loops(api: RemoteApi) -> None:
    in_thread: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    leave = threading.Event()

    def use_elsewhere() -> None:
        async def use() -> None:
            await statistics(api)
            loop.call_soon_threadsafe(in_thread.set_result, None)
            await asyncio.to_thread(leave.wait)
            await asyncio.sleep(0.05)

        asyncio.run(use())

    thread = threading.Thread(target=use_elsewhere)
    thread.start()
    await in_thread
    (there,) = api._channels._by_loop.values()  # noqa: SLF001
    (elsewhere,) = [found.channel for found in there.values()]
    await api.close()
    leave.set()
    await asyncio.to_thread(thread.join)
    assert elsewhere.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_many_calls_at_once_share_one_connection(api: RemoteApi) -> None:
    await asyncio.gather(*(enqueue(api, f"many-{number:03}") for number in range(300)))
    assert len(await ids(api, v1.Page(page_size=1000), rollout_id_contains="many-")) == 300
    assert len(api._channels._by_loop) == 1  # noqa: SLF001
    await api.close()

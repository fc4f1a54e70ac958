"""The stores that users make: what their constructors promise, and where they may be used."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store.base import LightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.errors import FailedPrecondition, Unavailable
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.server import LightningStoreServer
from agentlightning.store.sqlite import SqliteLightningStore
from agentlightning.store.threading import LightningStoreThreaded
from agentlightning.types import Rollout, Span


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0)
    await server.start()
    yield server
    await server.stop()
    await store.close()


@pytest.mark.parametrize("prefix", ["", "grpc://", "http://"])
async def test_a_client_takes_addresses_as_old_code_writes_them(server: LightningStoreServer, prefix: str) -> None:
    address = prefix + server.endpoint.removeprefix("grpc://") + ("/" if prefix else "")
    client = LightningStoreClient(address)

    await client.enqueue_rollout("x")

    assert len(await server.query_rollouts()) == 1
    await client.close()


@pytest.mark.parametrize("address", ["", "localhost", "ftp://localhost:1", "localhost:port", "http://localhost:1/v1"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="Cannot connect to"):
        LightningStoreClient(address)


async def test_a_server_that_is_not_there_is_told_soon_with_its_address() -> None:
    client = LightningStoreClient("127.0.0.1:9", connection_timeout=0.3)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 cannot be reached"):
        await client.enqueue_rollout("x")
    await client.close()


async def test_fixed_retry_delays_are_kept() -> None:
    client = LightningStoreClient("127.0.0.1:9", retry_delays=(0.01, 0.01))
    with pytest.raises(Unavailable):
        await client.enqueue_rollout("x")
    await client.close()


async def test_a_client_can_be_sent_to_another_process(server: LightningStoreServer) -> None:
    client = LightningStoreClient(server.endpoint, experiment="e", request_timeout=7)
    twin = pickle.loads(pickle.dumps(client))

    await twin.enqueue_rollout("x")

    assert len(await client.query_rollouts()) == 1
    await client.close()
    await twin.close()


def _enqueue(store: LightningStore) -> None:
    asyncio.run(_enqueue_one(store))


async def _enqueue_one(store: LightningStore) -> None:
    await store.enqueue_rollout("from a child")


@pytest.mark.parametrize("sent", ["client", "server"])
async def test_a_spawned_child_reaches_the_server(server: LightningStoreServer, sent: str) -> None:
    store: LightningStore = LightningStoreClient(server.endpoint) if sent == "client" else server
    child = multiprocessing.get_context("spawn").Process(target=_enqueue, args=(store,))
    child.start()
    await asyncio.to_thread(child.join)

    assert child.exitcode == 0
    assert [rollout.input for rollout in await server.query_rollouts()] == ["from a child"]


async def test_threads_and_event_loops_share_a_client(server: LightningStoreServer) -> None:
    client = LightningStoreClient(server.endpoint)
    failures: list[BaseException] = []

    async def work() -> None:
        for _ in range(20):
            rollout = await client.enqueue_rollout("x")
            await client.update_rollout(rollout.rollout_id, status="cancelled")
            await client.wait_for_rollouts(rollout_ids=[rollout.rollout_id])

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    await work()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert failures == []
    assert len(await server.query_rollouts(status_in=["cancelled"])) == 100
    await client.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_store_wakes_waiters_of_other_threads(kind: str, tmp_path: Path) -> None:
    store = InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "store.db")
    rollout = await store.enqueue_rollout("x")
    found: list[Rollout] = []
    thread = threading.Thread(
        target=lambda: found.extend(asyncio.run(store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=10)))
    )
    thread.start()
    await asyncio.sleep(0.1)

    await store.update_rollout(rollout.rollout_id, status="succeeded")
    await asyncio.to_thread(thread.join)

    assert [finished.status for finished in found] == ["succeeded"]
    await store.close()


async def test_a_file_keeps_what_was_answered_and_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = SqliteLightningStore(path)
    rollout = await first.enqueue_rollout({"q": 1})
    with pytest.raises(FailedPrecondition, match="another server has it open"):
        SqliteLightningStore(path)
    await first.close()
    second = SqliteLightningStore(path)

    assert await second.get_rollout_by_id(rollout.rollout_id) == rollout
    await second.close()


def test_a_store_of_this_process_says_that_it_cannot_be_sent(tmp_path: Path) -> None:
    for store in (InMemoryLightningStore(), SqliteLightningStore(tmp_path / "store.db")):
        with pytest.raises(TypeError, match="LightningStoreServer"):
            pickle.dumps(store)
        store.close_now()


async def test_a_server_refuses_what_it_cannot_do() -> None:
    store = InMemoryLightningStore()
    with pytest.raises(ValueError, match="insecure"):
        LightningStoreServer(store, "0.0.0.0", 0)
    with pytest.raises(TypeError, match="a class of your own"):
        LightningStoreServer(LightningStore(), port=0)
    unsupported: dict[str, Any]
    for unsupported in ({"launch_mode": "mp"}, {"n_workers": 2}, {"tracker": object()}, {"cors_allow_origins": "*"}):
        with pytest.raises(ValueError, match="not supported"):
            LightningStoreServer(store, port=0, **unsupported)
    await store.close()


async def test_a_second_server_never_shares_a_port(server: LightningStoreServer) -> None:
    port = int(server.endpoint.rpartition(":")[2])
    store = InMemoryLightningStore()
    second = LightningStoreServer(store, port=port)

    with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{port}"):
        await second.start()
    await store.close()


async def test_a_server_can_be_started_again_and_its_store_outlives_it() -> None:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0)
    for expected in (1, 2):
        await server.start()
        client = LightningStoreClient(server.endpoint)
        await client.enqueue_rollout("x")
        assert len(await client.query_rollouts()) == expected
        await client.close()
        await server.stop()
    assert len(await store.query_rollouts()) == 2
    await store.close()


@pytest.mark.parametrize(
    "thresholds",
    [
        {"eviction_memory_threshold": 0},
        {"eviction_memory_threshold": 1.5},
        {"eviction_memory_threshold": 1000, "safe_memory_threshold": 1000},
        {"safe_memory_threshold": -1},
    ],
)
def test_thresholds_that_are_none_are_refused(thresholds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="memory_threshold"):
        InMemoryLightningStore(**thresholds)


async def test_evicted_spans_raise_and_are_counted() -> None:
    store = InMemoryLightningStore(eviction_memory_threshold=2000, safe_memory_threshold=1000)
    rollouts = [await store.start_rollout(number) for number in range(3)]
    for rollout in rollouts:
        await store.add_span(
            Span.from_attributes(
                attributes={"text": "x" * 900}, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id
            )
        )
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")

    with pytest.raises(RuntimeError, match=f"{rollouts[0].rollout_id}.*evicted"):
        await store.query_spans(rollouts[0].rollout_id)
    assert (await store.statistics())["evicted_spans"] >= 1
    await store.close()


class Slow(LightningStore):
    """A store of a user's own, which no two threads may be in at once."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    async def enqueue_rollout(self, input: Any, *args: Any, **kwargs: Any) -> Rollout:
        self.threads.add(threading.get_ident())
        await asyncio.sleep(0.01)
        return Rollout(rollout_id=f"ro-{input}", input=input, start_time=0.0)

    async def wait_iter(self, *, rollout_ids: Any, timeout: float | None = None) -> Any:
        for rollout_id in rollout_ids:
            self.threads.add(threading.get_ident())
            yield Rollout(rollout_id=rollout_id, input=None, start_time=0.0)


async def test_any_store_can_be_made_safe_for_threads() -> None:
    slow = Slow()
    store = LightningStoreThreaded(slow)
    results: list[str] = []

    async def use() -> None:
        rollout = await store.enqueue_rollout(1)
        results.append(rollout.rollout_id)
        results.extend([found.rollout_id async for found in store.wait_iter(rollout_ids=["a", "b"])])

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert sorted(results) == ["a"] * 5 + ["b"] * 5 + ["ro-1"] * 5
    assert len(slow.threads) == 1
    assert store.capabilities["thread_safe"]


async def test_a_cancelled_task_ends_whatever_call_it_is_in(server: LightningStoreServer) -> None:
    """Goes wrong when a cancellation that comes together with an answer or a connection is swallowed."""
    client = LightningStoreClient(server.endpoint)
    await client.update_worker("w")

    async def work() -> None:
        while True:
            await client.update_resources("mine", {})  # sent once, after a wait for the connection
            await client.wait_for_rollouts(rollout_ids=["none"], timeout=1)

    for number in range(30):
        working = asyncio.create_task(work())
        await asyncio.sleep(0.003 + number * 0.0003)
        working.cancel()
        done, _ = await asyncio.wait({working}, timeout=30)
        assert done, "it goes on"
    await client.close()

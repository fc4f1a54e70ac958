"""What many or careless clients can make a server hold is bounded."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from calls import (
    AT_SUCCEEDED,
    add_spans,
    claim,
    claimed_ids,
    dequeue,
    enqueue,
    ids,
    payload,
    refused,
    report,
    span,
    spans,
    spans_request,
    start,
    statistics,
)
from store_process import Connect, StartServer
from stores import OpenStore

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import ResourceExhausted
from agentlightning.store.opening import open_engine
from agentlightning.store.remote.retries import RetryPolicy
from agentlightning.store.server.server import StoreServer
from agentlightning.store.storage import groups
from agentlightning.store.storage.groups import GroupedStorage
from lightning_store import v1
from lightning_store.v1 import rollout_service_pb2_grpc

IMPATIENT = RetryPolicy(delays=())
MB = 1 << 20
MOST_FOR_A_SLOW_READER = 16 * MB
"""Memory of the server that one stream may take whose client does not read: a few messages of 2 MiB, as rows, as
objects and in the buffers of gRPC. Some 9 MiB were measured."""


@pytest_asyncio.fixture
async def durable(tmp_path: Path) -> AsyncIterator[StoreServer]:
    """A server whose works run on a thread, so that they may wait; it takes requests of 100 kB at once."""
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    server = StoreServer(engine, port=0, max_pending_bytes=100_000)
    await server.start()
    yield server
    await server.stop()
    engine.close()


@contextmanager
def standstill(engine: Engine) -> Iterator[None]:
    """Keep the storage from writing, as a slow disk would."""
    begun, end = threading.Event(), threading.Event()

    def work(tx: object) -> None:
        begun.set()
        end.wait(60)

    blocking = threading.Thread(target=lambda: engine.storage.run_blocking(work))
    blocking.start()
    begun.wait(10)
    try:
        yield
    finally:
        end.set()
        blocking.join()


async def until_waiting(engine: Engine, works: int) -> None:
    """Return when so many works wait for the storage to write."""
    assert isinstance(engine.storage, GroupedStorage)
    for _ in range(1000):
        if engine.storage._writes._jobs.qsize() == works:  # noqa: SLF001  no call tells
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {works} works wait")


async def test_requests_that_are_too_large_together_are_refused_until_there_is_room(
    durable: StoreServer, connect_to: Connect
) -> None:
    """Goes wrong when clients that send faster than the disk writes fill the memory of the server."""
    engine = durable._engine  # noqa: SLF001
    attempt = await start(engine, "r1")
    blob = v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(60_000)))
    patient, impatient = connect_to(durable.address), connect_to(durable.address, retries=IMPATIENT)
    with standstill(engine):
        first = asyncio.ensure_future(add_spans(patient, span(attempt, attributes=[blob])))
        await until_waiting(engine, 1)
        with refused(ResourceExhausted, "OVERLOADED") as caught:
            await add_spans(impatient, span(attempt, attributes=[blob]))
        assert caught.value.retry_after == 1.0
        small = asyncio.ensure_future(enqueue(impatient, "small"))
        later = asyncio.ensure_future(add_spans(patient, span(attempt, attributes=[blob])))
        await until_waiting(engine, 2)
    await asyncio.gather(first, small, later)
    assert len(await spans(engine, "r1")) == 2
    assert await ids(engine) == ["r1", "small"]


async def test_a_request_that_is_larger_than_all_may_be_together_is_taken_alone(
    durable: StoreServer, connect_to: Connect
) -> None:
    api = connect_to(durable.address, retries=IMPATIENT)
    await enqueue(api, "large", input=payload("x" * 200_000))
    assert await ids(api) == ["large"]


async def test_runners_that_wait_for_work_keep_no_large_request_out(durable: StoreServer, connect_to: Connect) -> None:
    """Goes wrong when a claim, which may be held for minutes, counts all the while."""
    engine = durable._engine  # noqa: SLF001
    api = connect_to(durable.address, retries=IMPATIENT)
    await enqueue(api, "first")
    await claim(api)
    held = asyncio.ensure_future(dequeue(api, wait=60))
    await OpenStore(api, engine, None).until_waiting(1)
    await enqueue(api, "large", input=payload("x" * 200_000))
    assert claimed_ids(await held) == ["large"]


async def test_otlp_exports_count_too(durable: StoreServer) -> None:
    engine = durable._engine  # noqa: SLF001
    attempt = await start(engine, "r1")
    blob = v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(60_000)))
    data = spans_request(span(attempt, attributes=[blob])).SerializeToString()
    async with grpc.aio.insecure_channel(durable.address) as channel:
        method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        export = channel.unary_unary(method)
        metadata = (("agl-rollout-id", "r1"), ("agl-attempt-id", attempt.attempt_id))
        with standstill(engine):
            first = asyncio.ensure_future(_answer(export(data, metadata=metadata)))
            await until_waiting(engine, 1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await export(data, metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await first
    assert len(await spans(engine, "r1")) == 1


async def _answer(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> bytes:
    return await call


async def test_works_that_wait_are_bounded_in_number(
    durable: StoreServer, connect_to: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "MOST_WAITING", 3)
    engine = durable._engine  # noqa: SLF001
    api = connect_to(durable.address, retries=IMPATIENT)
    with standstill(engine):
        waiting = [asyncio.ensure_future(enqueue(api, f"r{number}")) for number in range(3)]
        await until_waiting(engine, 3)
        with refused(ResourceExhausted, "OVERLOADED") as caught:
            await enqueue(api, "one-too-many")
        assert caught.value.retry_after == 1.0
        assert (await statistics(api)).total_rollouts == 0, "reads go on"
    await asyncio.gather(*waiting)
    assert len(await ids(api)) == 3


async def test_what_a_caller_sent_who_has_gone_is_let_go_before_its_turn_comes(durable: StoreServer) -> None:
    """Goes wrong when clients that send and hang up, again and again, fill a server whose disk is slow."""
    engine = durable._engine  # noqa: SLF001
    done: list[str] = []

    def asked() -> Callable[[object], None]:
        return lambda tx: done.append("x")

    with standstill(engine):
        work = asked()
        sent = weakref.ref(work)
        call = asyncio.ensure_future(engine.storage.run(work))
        del work
        await until_waiting(engine, 1)
        assert sent() is not None
        call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(0)
        assert sent() is None
    await enqueue(engine, "next")
    assert done == []


async def test_the_watchdog_is_not_refused_when_callers_are(
    durable: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goes wrong when a server that is overloaded gives up its attempts late, and so gets more to do."""
    monkeypatch.setattr(groups, "MOST_WAITING", 0)
    engine = durable._engine  # noqa: SLF001
    with refused(ResourceExhausted, "OVERLOADED"):
        await enqueue(engine, "r1")
    assert engine.look_after_attempts() is None


def resident(pid: int) -> int:
    """The memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the memory of a process")
async def test_clients_that_do_not_read_take_no_more_than_a_few_messages_each(
    start_server: StartServer, connect_to: Connect, quick_folder: Path
) -> None:
    """Goes wrong when a server makes the whole answer for a client that never takes it."""
    server = start_server(f"sqlite:///{quick_folder}/store.db")
    api = connect_to(server.address)
    names = [f"r{number}" for number in range(40)]
    for name in names:
        attempt = await start(api, name, input=payload("x" * MB))
        await report(api, attempt, AT_SUCCEEDED)
    before = resident(server.pid)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        streams = [stub.WatchRollouts(v1.WatchRolloutsRequest()) for _ in range(4)]
        streams += [stub.WaitForRollouts(v1.WaitForRolloutsRequest(rollout_ids=names)) for _ in range(4)]
        for stream in streams:
            await stream.read()
        peak = before
        for _ in range(20):
            await asyncio.sleep(0.1)
            peak = max(peak, resident(server.pid))
        for stream in streams:
            stream.cancel()
    assert peak - before < MOST_FOR_A_SLOW_READER * len(streams)

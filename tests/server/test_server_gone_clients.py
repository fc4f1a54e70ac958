"""A client that vanishes takes nothing with it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from calls import (
    AT_SUCCEEDED,
    QUEUING,
    add_spans,
    attempts,
    claimed_ids,
    dequeue,
    enqueue,
    get,
    queue,
    report,
    span,
    start_attempt,
    waiting_for,
)
from store_process import Connect, environment

from agentlightning.store.engine.engine import Engine
from agentlightning.store.opening import open_engine
from agentlightning.store.server.server import StoreServer
from lightning_store import v1

StartClient = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start_client(served: StoreServer) -> Iterator[StartClient]:
    """Starts clients in processes of their own, each of which makes one call that is held."""
    started: list[subprocess.Popen[bytes]] = []

    def start(call: str) -> subprocess.Popen[bytes]:
        program = Path(__file__).parent / "holding.py"
        started.append(subprocess.Popen([sys.executable, str(program), call, served.address], env=environment()))
        return started[-1]

    yield start
    for client in started:
        client.kill()
        client.wait()


async def until_held(engine: Engine, calls: int) -> None:
    """Return when the engine holds so many calls."""
    held = engine._waiters._by_key  # noqa: SLF001  no call tells
    for _ in range(1000):
        if len({subscription for waiting in held.values() for subscription in waiting}) == calls:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {calls} calls are held but {held}")


async def test_a_client_that_is_killed_while_it_waits_for_work_claims_none(
    engine: Engine, start_client: StartClient
) -> None:
    client = start_client("dequeue")
    await until_held(engine, 1)
    client.kill()
    await until_held(engine, 0)
    await enqueue(engine, "a", "b")
    assert await attempts(engine, "a") == []
    assert (await get(engine, "a")).status == QUEUING
    assert await queue(engine) == ["a", "b"]


async def test_work_goes_to_the_client_that_is_still_there(engine: Engine, start_client: StartClient) -> None:
    client = start_client("dequeue")
    await until_held(engine, 1)
    present = asyncio.ensure_future(dequeue(engine, 5, wait=20))
    await until_held(engine, 2)
    client.kill()
    await until_held(engine, 1)
    await enqueue(engine, "a")
    assert claimed_ids(await asyncio.wait_for(present, 25)) == ["a"]


@pytest.mark.parametrize("call", ["wait", "watch", "watch_resources"])
async def test_a_client_that_is_killed_in_a_stream_leaves_no_subscription(
    engine: Engine, start_client: StartClient, call: str
) -> None:
    await enqueue(engine, "pending")
    client = start_client(call)
    await until_held(engine, 1)
    client.kill()
    await until_held(engine, 0)


async def test_a_client_that_is_killed_before_it_has_read_all_leaves_no_subscription(
    engine: Engine, start_client: StartClient
) -> None:
    await enqueue(engine, "finished", "pending")
    attempt = await start_attempt(engine, "finished", "a1")
    body = v1.KeyValue(key="body", value=v1.AnyValue(bytes_value=bytes(1 << 20)))
    for _ in range(20):
        await add_spans(engine, span(attempt, attributes=[body]))
    await report(engine, attempt, AT_SUCCEEDED)
    client = start_client("wait_and_read_little")
    await until_held(engine, 1)
    await asyncio.sleep(0.5)  # the server has sent what it may, and waits for the client to read
    await until_held(engine, 1)
    client.kill()
    await until_held(engine, 0)


async def test_a_consumer_that_leaves_a_stream_early_ends_it(
    engine: Engine, served: StoreServer, connect_to: Connect
) -> None:
    api = connect_to(served.address)
    await enqueue(api, "finished", "pending")
    await report(api, await start_attempt(api, "finished", "a1"), AT_SUCCEEDED)
    stream = waiting_for(api, "finished", "pending")
    assert (await anext(stream)).finished.rollout_id == "finished"
    await until_held(engine, 1)
    await stream.aclose()
    await until_held(engine, 0)


async def test_a_stream_whose_time_is_up_leaves_no_subscription(
    engine: Engine, served: StoreServer, connect_to
) -> None:
    api = connect_to(served.address)
    await enqueue(api, "pending")
    messages = [message async for message in waiting_for(api, "pending", timeout=0.1)]
    assert [message.WhichOneof("event") for message in messages] == ["done"]
    await until_held(engine, 0)


@pytest.mark.parametrize("yields", range(8))
async def test_a_claim_that_is_cut_off_is_given_back_before_the_store_closes(tmp_path: Path, yields: int) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    engine = open_engine(url)
    await enqueue(engine, "a", "b")
    claiming = asyncio.ensure_future(dequeue(engine, 2, wait=5))
    for _ in range(yields):
        await asyncio.sleep(0.0005)
    claiming.cancel()
    (outcome,) = await asyncio.gather(claiming, return_exceptions=True)
    engine.close()
    again = open_engine(url)
    if isinstance(outcome, asyncio.CancelledError):
        assert await queue(again) == ["a", "b"]
    else:
        assert await queue(again) == []
    again.close()

"""A server whose release has newer tables takes the database from servers of an older one that are at work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from calls import claim, enqueue, everything, get, ids, refused, waiting_for
from postgres import bare_database
from store_process import Connect, StartServer, StoreProcess, run_command

from agentlightning.store.errors import Unavailable
from agentlightning.store.remote.api import RemoteApi
from agentlightning.store.remote.retries import RetryPolicy

NEWER = [sys.executable, str(Path(__file__).with_name("altered_server.py")), "newer-tables"]


@pytest.fixture
def url() -> Iterator[str]:
    """A database with nothing in it."""
    with bare_database() as made:
        yield made


@pytest.fixture
def old(url: str, start_server: StartServer, tmp_path: Path) -> StoreProcess:
    """A server of today on the database."""
    return start_server(url, log=tmp_path / "log")


@pytest_asyncio.fixture
async def api(old: StoreProcess, connect_to: Connect) -> AsyncIterator[RemoteApi]:
    """A client of that server which does not try again."""
    yield connect_to(old.address, retries=RetryPolicy(delays=()))


async def test_the_older_server_serves_no_more_and_says_why(
    api: RemoteApi, url: str, start_server: StartServer, connect_to: Connect, tmp_path: Path
) -> None:
    await enqueue(api, "a", "b")
    attempt = await claim(api)
    waiting = asyncio.ensure_future(everything(waiting_for(api, "a", timeout=60)))
    newer = start_server(url, command=NEWER)
    with refused(Unavailable, "DATABASE_UNREACHABLE"):
        await asyncio.wait_for(waiting, 30)
    for call in (get(api, "a"), enqueue(api, "c")):
        with refused(Unavailable, "DATABASE_UNREACHABLE") as caught:
            await call
        assert "has gone over to a newer release: its tables are of version" in caught.value.message
    assert "has gone over to a newer release" in (tmp_path / "log").read_text()
    later = connect_to(newer.address)
    assert await ids(later) == ["a", "b"]
    assert (await get(later, "a")).latest_attempt.attempt_id == attempt.attempt_id
    assert (await claim(later)).rollout_id == "b"


async def test_clients_that_know_both_servers_go_on_at_the_newer_one_and_lose_nothing(
    old: StoreProcess, url: str, start_server: StartServer, connect_to: Connect
) -> None:
    before = connect_to(old.address)
    await enqueue(before, "first")
    newer = await asyncio.to_thread(start_server, url, command=NEWER)
    clients = [connect_to(f"{old.address},{newer.address}") for _ in range(4)]  # whichever they try first
    names = [f"r{number}" for number in range(len(clients))]
    await asyncio.gather(*[enqueue(client, name) for client, name in zip(clients, names, strict=True)])
    assert sorted(await ids(connect_to(newer.address))) == ["first", *names]


async def test_writes_that_were_answered_while_the_tables_changed_are_there(
    api: RemoteApi, url: str, start_server: StartServer, connect_to: Connect
) -> None:
    answered: list[str] = []

    async def write(number: int) -> None:
        try:
            while True:
                name = f"{number}-{len(answered)}"
                await enqueue(api, name)
                answered.append(name)
        except Unavailable:
            return

    await enqueue(api, "first")
    writers = [asyncio.ensure_future(write(number)) for number in range(4)]
    newer = await asyncio.to_thread(start_server, url, command=NEWER)
    await asyncio.wait_for(asyncio.gather(*writers), 30)
    assert answered
    later = connect_to(newer.address)
    for name in answered:
        assert (await get(later, name)).rollout_id == name


def test_an_older_server_does_not_start_on_newer_tables(url: str, start_server: StartServer) -> None:
    start_server(url, command=NEWER).stop()
    ended = run_command("--store", url, "--port", "0")
    assert ended.returncode == 1
    assert "its tables are of version" in ended.stderr

"""Of two servers over one database one keeps the watch; when it stands still the other one does, and when it wakes up
it does nothing a second time."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import (
    AT_FAILED,
    AT_SUCCEEDED,
    AT_UNRESPONSIVE,
    SUCCEEDED,
    add_spans,
    attempts,
    config,
    dequeue,
    enqueue,
    get,
    queue,
    report,
    span,
    start,
)
from postgres import SERVER, connected
from store_invariants import check_postgres
from store_process import Connect, StoreProcess

from agentlightning.store.remote.api import RemoteApi

# The session of a server that is not heard of ends after fifteen turns, and another one looks for the watch each turn.
TURN = 0.2
STANDS_STILL = 6 * TURN
ALTERED = [sys.executable, str(Path(__file__).with_name("altered_server.py")), f"turn={TURN}"]

_KEEPERS = """
  SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A database with an empty store."""
    yield SERVER.url_of(tmp_path)
    SERVER.take_back(tmp_path)


@pytest.fixture
def servers(database: str, tmp_path: Path) -> Iterator[list[StoreProcess]]:
    """Two servers, the first of which keeps the watch."""
    made = [StoreProcess(database, command=ALTERED, log=tmp_path / f"log{number}") for number in range(2)]
    for server in made:
        server.start()
    yield made
    for server in made:
        server.kill()


async def until(condition: Callable[[], Any]) -> Any:
    """Return what a condition says as soon as that is true."""
    while True:
        found = condition()
        if found:
            return found
        await asyncio.sleep(0.02)


def keepers(database: str) -> set[int]:
    """The connections that keep the watch."""
    with connected(database) as connection:
        return {pid for (pid,) in connection.execute(_KEEPERS)}


async def lose_runners(api: RemoteApi, *names: str) -> None:
    """Enqueue rollouts, and begin attempts that nobody goes on with."""
    await enqueue(api, *names, config=config(max_attempts=2, retry_on=[AT_FAILED, AT_UNRESPONSIVE]))
    for claimed in (await dequeue(api, len(names), lease=1)).claims:
        await add_spans(api, span(claimed.attempt))


async def test_the_watch_goes_on_at_another_server_and_what_was_done_is_not_done_again(
    servers: list[StoreProcess], database: str, connect_to: Connect
) -> None:
    """Goes wrong when the watch stays with a server that stands still, or comes with it when it wakes up."""
    names = [f"r{number:02}" for number in range(20)]
    (frozen, other), api = servers, connect_to(servers[1].address)
    (first,) = keepers(database)
    await lose_runners(api, *names)
    frozen.signal(signal.SIGSTOP)
    await until(lambda: keepers(database) - {first})
    claims: list[Any] = []
    claims += (await dequeue(api, len(names), wait=60)).claims
    frozen.signal(signal.SIGCONT)  # amid what the other server does
    while len(claims) < len(names):
        claims += (await dequeue(api, len(names), wait=60)).claims
    awake = connect_to(frozen.address)
    assert await queue(awake) == []
    for claimed in claims:
        await report(awake, claimed.attempt, AT_SUCCEEDED)
    for name in names:
        assert [attempt.status for attempt in await attempts(awake, name)] == [AT_UNRESPONSIVE, AT_SUCCEEDED]
        assert (await get(api, name)).status == SUCCEEDED
    assert len(keepers(database)) == 1
    other.kill()
    await lose_runners(awake, "last")
    assert [claimed.rollout.rollout_id for claimed in (await dequeue(awake, wait=60)).claims] == ["last"]
    check_postgres(database)


async def test_runners_are_not_given_up_for_the_time_in_which_their_server_stood_still(
    servers: list[StoreProcess], database: str, connect_to: Connect
) -> None:
    """Goes wrong when a server that wakes up counts the silence of runners that could not reach it."""
    servers[1].kill()
    (only, _), api = servers, connect_to(servers[0].address)

    def beat_and_status() -> Any:
        with connected(database) as connection:
            return connection.execute("SELECT beat, status FROM attempts ORDER BY beat DESC LIMIT 1").fetchone()

    for number in range(20):
        await start(api, f"r{number}", lease=1)
        only.signal(signal.SIGSTOP)
        began, status = beat_and_status()
        if status != AT_UNRESPONSIVE:
            break
        only.signal(signal.SIGCONT)  # the machine is so slow that the lease ran out before
    await asyncio.sleep(STANDS_STILL)
    only.signal(signal.SIGCONT)
    await until(lambda: beat_and_status()[1] == AT_UNRESPONSIVE)
    counted_from, _ = beat_and_status()
    assert counted_from - began > STANDS_STILL * 1e9

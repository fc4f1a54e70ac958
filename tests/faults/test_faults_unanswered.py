"""A server that dies between the commit of a call and its answer: the call, sent again, does nothing twice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from calls import (
    AT_FAILED,
    AT_SUCCEEDED,
    HERE,
    PREPARING,
    REQUEUING,
    RUNNING,
    SUCCEEDED,
    add_spans,
    attempts,
    beat,
    claim,
    claimed_ids,
    config,
    dequeue,
    enqueue,
    get,
    ids,
    key_of,
    named,
    prompt,
    publish,
    queue,
    report,
    span,
    span_names,
    start,
    start_attempt,
    statistics,
    waiting_for,
)
from postgres import SERVER
from store_invariants import check_postgres, check_store
from store_process import StoreProcess

from agentlightning.store.client import LightningStoreClient
from agentlightning.store.remote.api import RemoteApi, connect
from lightning_store import v1


class MortalStore:
    """A server whose next commit can be made its last act.

    Args:
        folder: Where its files lie.
        database: URL of the database that it works on; None has it work on a file.
    """

    def __init__(self, folder: Path, database: str | None) -> None:
        self._path = folder / "store.db"
        self._database = database
        self._trigger = folder / "die"
        program = Path(__file__).parent / "dying_server.py"
        self.process = StoreProcess(
            database or f"sqlite:///{self._path}",
            command=[sys.executable, str(program), str(self._trigger)],
            log=folder / "log",
        )
        self.process.start()
        self.api: RemoteApi = connect(self.process.address)

    def check_rows(self) -> None:
        """Check the rows of the store as they are now."""
        if self._database is None:
            check_store(self._path)
        else:
            check_postgres(self._database)

    async def dies_answering(self, call: Any) -> Any:
        """Make a call whose commit is the server's last act; return what the next server answers."""
        self._trigger.touch()
        calling = asyncio.ensure_future(call)
        await asyncio.to_thread(self.process.wait)
        assert not calling.done()
        self.check_rows()
        self._trigger.unlink()
        await asyncio.to_thread(self.process.start)
        return await asyncio.wait_for(calling, 20)


in_both_databases = pytest.mark.parametrize("mortal", ["sqlite", "postgres"], indirect=True)
"""For calls that PostgreSQL recognises in its own way when they are repeated."""


@pytest.fixture
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MortalStore]:
    """Starts and ends the server."""
    is_shared = getattr(request, "param", "sqlite") == "postgres"
    store = MortalStore(tmp_path, SERVER.url_of(tmp_path) if is_shared else None)
    yield store
    store.process.kill()
    store.check_rows()
    SERVER.take_back(tmp_path)


@pytest_asyncio.fixture
async def api(mortal: MortalStore) -> AsyncIterator[RemoteApi]:
    """A client that the server has answered before."""
    await statistics(mortal.api)
    yield mortal.api
    await mortal.api.close()


@in_both_databases
async def test_enqueued_rollouts(mortal: MortalStore, api: RemoteApi) -> None:
    answered = await mortal.dies_answering(enqueue(api, "a", "b", "c"))
    assert [rollout.rollout_id for rollout in answered] == ["a", "b", "c"]
    assert await ids(api) == await queue(api) == ["a", "b", "c"]


async def test_a_started_rollout(mortal: MortalStore, api: RemoteApi) -> None:
    attempt = await mortal.dies_answering(start(api, "a", worker_id="w", lease=30))
    assert [one.attempt_id for one in await attempts(api, "a")] == [attempt.attempt_id]


@in_both_databases
async def test_a_claim(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a", "b", "c")
    claimed = await mortal.dies_answering(dequeue(api, 2, claim_id="mine", worker_id="w", lease=30))
    assert claimed_ids(claimed) == ["a", "b"]
    assert [entry.attempt.attempt_id for entry in claimed.claims] == [
        (await attempts(api, name))[0].attempt_id for name in ("a", "b")
    ]
    assert (await statistics(api)).total_attempts == 2
    assert await queue(api) == ["c"]


@in_both_databases
async def test_a_claim_that_was_held(mortal: MortalStore, api: RemoteApi) -> None:
    held = asyncio.ensure_future(dequeue(api, 2, claim_id="mine", wait=30))
    await asyncio.sleep(0.2)
    other = connect(mortal.process.address)
    await mortal.dies_answering(enqueue(other, "a"))
    assert claimed_ids(await asyncio.wait_for(held, 20)) == ["a"]
    assert len(await attempts(api, "a")) == 1
    await other.close()


@in_both_databases
async def test_spans(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a")
    attempt = await claim(api)
    stored = await mortal.dies_answering(add_spans(api, span(attempt, "one"), span(attempt, "two")))
    assert list(stored.sequence_ids) == [1, 2]
    assert list(stored.duplicates) == [0, 1]
    assert await span_names(api, "a") == ["one", "two"]
    assert (await get(api, "a")).status == RUNNING


@in_both_databases
async def test_a_report_of_success(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a")
    attempt = await claim(api, worker_id="w")
    answered = await mortal.dies_answering(report(api, attempt, AT_SUCCEEDED))
    assert answered.status == AT_SUCCEEDED
    assert not answered.HasField("late_report")
    assert (await get(api, "a")).status == SUCCEEDED


async def test_a_report_of_failure(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a", config=config(max_attempts=2, retry_on=[AT_FAILED]))
    attempt = await claim(api)
    assert (await mortal.dies_answering(report(api, attempt, AT_FAILED))).status == AT_FAILED
    assert (await get(api, "a")).status == REQUEUING
    assert await queue(api) == ["a"]
    assert len(await attempts(api, "a")) == 1


async def test_an_attempt_on_demand(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a")
    await mortal.dies_answering(start_attempt(api, "a", "mine"))
    assert [one.attempt_id for one in await attempts(api, "a")] == ["mine"]
    assert await queue(api) == []


@in_both_databases
async def test_resources(mortal: MortalStore, api: RemoteApi) -> None:
    assert (await mortal.dies_answering(publish(api, "p", "first"))).version == 1
    update = v1.UpdateResourcesRequest(resources_id="p", resources=named(main=prompt("second")), expected_version=1)
    assert (await mortal.dies_answering(api.update_resources(HERE, update))).resources.version == 2
    latest = (await api.get_latest_resources(HERE, v1.GetLatestResourcesRequest())).resources
    assert (latest.resources_id, latest.version) == ("p", 2)


async def test_a_handed_back_claim(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a", "b")
    attempt = await claim(api)
    await mortal.dies_answering(api.release_attempts(HERE, v1.ReleaseAttemptsRequest(attempts=[key_of(attempt)])))
    assert await attempts(api, "a") == []
    assert await queue(api) == ["a", "b"]


async def test_a_deletion(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a", "b")
    request = v1.DeleteRolloutsRequest(rollout_id_in=v1.StringSet(values=["a"]))
    await mortal.dies_answering(api.delete_rollouts(HERE, request))
    assert await ids(api) == ["b"]


async def test_the_wait_for_a_rollout_that_finished_just_then(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a")
    attempt = await claim(api)
    client = LightningStoreClient(mortal.process.address)
    waiting = asyncio.ensure_future(client.wait_for_rollouts(rollout_ids=["a"], timeout=None))
    await asyncio.sleep(0.2)
    await mortal.dies_answering(report(api, attempt, AT_SUCCEEDED))
    (rollout,) = await asyncio.wait_for(waiting, 20)
    assert (rollout.rollout_id, rollout.status) == ("a", "succeeded")
    assert [message.WhichOneof("event") async for message in waiting_for(api, "a")] == ["finished", "done"]
    await client.close()


async def test_leases_are_counted_anew_after_a_restart(mortal: MortalStore, api: RemoteApi) -> None:
    await enqueue(api, "a", "b")
    attempt = await claim(api, worker_id="w", lease=1)
    mortal.process.kill()
    await asyncio.sleep(1.1)  # nobody could renew it meanwhile
    await asyncio.to_thread(mortal.process.start)
    assert (await get(api, "a")).status == PREPARING
    assert list((await beat(api, "w", attempt)).commands) == []
    await asyncio.sleep(1.5)
    assert (await get(api, "a")).status in (v1.ROLLOUT_STATUS_QUEUING, REQUEUING)
    assert await queue(api) == ["a", "b"]

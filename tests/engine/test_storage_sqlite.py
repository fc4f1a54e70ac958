from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from calls import (
    HERE,
    QUEUING,
    add_spans,
    beat,
    claim,
    config,
    delete,
    enqueue,
    everything,
    fail,
    get,
    ids,
    payload,
    publish,
    queue,
    refused,
    report,
    span,
    spans,
    start,
    statistics,
    status_of,
    waiting_for,
    worker,
)
from stores import DAY, FakeClock, OpenStore

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from agentlightning.store.opening import open_engine
from agentlightning.store.storage.sqlite import SqliteStorage
from agentlightning.store.storage.sqlite_schema import VERSION
from agentlightning.store.storage.tx import Tx
from lightning_store import v1


@pytest.fixture
def path(quick_folder: Path) -> Path:
    return quick_folder / "store.db"


def opened(path: Path, clock: FakeClock | None = None) -> OpenStore:
    engine = Engine(SqliteStorage(path), clock=clock, watches=False)
    return OpenStore(engine, engine, clock)


class TestOpening:
    def test_a_new_file_becomes_a_store(self, path: Path) -> None:
        storage = SqliteStorage(path)
        assert storage.store_id
        storage.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
            assert connection.execute("SELECT store_id FROM store").fetchone() == (storage.store_id,)
        connection.close()

    def test_a_second_owner_is_refused_until_the_first_has_gone(self, path: Path) -> None:
        """Goes wrong when two servers write to one file: each thinks that it alone hands out the queue."""
        first = SqliteStorage(path)
        with refused(FailedPrecondition, "DATABASE_IN_USE") as caught:
            SqliteStorage(path)
        assert str(path) in caught.value.message
        first.close()
        SqliteStorage(path).close()

    def test_an_owner_in_another_process_is_an_owner_too(self, path: Path) -> None:
        first = SqliteStorage(path)
        answer = _in_child(path)
        assert "DATABASE_IN_USE" in answer
        first.close()
        assert _in_child(path) == "opened"

    def test_an_owner_that_was_killed_owns_nothing(self, path: Path) -> None:
        code = f"""
import time
from agentlightning.store.storage.sqlite import SqliteStorage
storage = SqliteStorage({str(path)!r})
print("open", flush=True)
time.sleep(60)
"""
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with refused(FailedPrecondition, "DATABASE_IN_USE"):
            SqliteStorage(path)
        child.kill()
        child.wait()
        child.stdout.close()
        SqliteStorage(path).close()

    def test_a_database_of_something_else_is_refused_and_left_alone(self, path: Path) -> None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE precious (x)")
        other.commit()
        other.close()
        before = path.read_bytes()
        with refused(FailedPrecondition, "NOT_A_STORE"):
            SqliteStorage(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("version", [VERSION + 1, 0])
    def test_tables_of_another_version_are_refused_and_both_versions_named(self, path: Path, version: int) -> None:
        SqliteStorage(path).close()
        other = sqlite3.connect(path)
        other.execute(f"PRAGMA user_version = {version}")
        other.close()
        with refused(FailedPrecondition, "SCHEMA_VERSION") as caught:
            SqliteStorage(path)
        assert f"version {version}" in caught.value.message
        assert str(VERSION) in caught.value.message

    @pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with refused(FailedPrecondition, "DATABASE_UNAVAILABLE") as caught:
            SqliteStorage(path)
        assert str(path) in caught.value.message
        assert path.read_bytes() == content

    def test_a_folder_that_does_not_exist_is_named(self, path: Path) -> None:
        with refused(FailedPrecondition, "DATABASE_UNAVAILABLE") as caught:
            SqliteStorage(path.parent / "missing" / "store.db")
        assert "missing" in caught.value.message

    def test_a_folder_is_no_file(self, path: Path) -> None:
        path.mkdir()
        with refused(FailedPrecondition, "DATABASE_UNAVAILABLE"):
            SqliteStorage(path)

    @pytest.mark.parametrize("what", ["file", "folder"])
    def test_what_may_only_be_read_is_refused(self, path: Path, what: str) -> None:
        if os.name != "posix":
            pytest.skip("the permissions of POSIX")
        SqliteStorage(path).close()
        Path(f"{path}-lock").unlink()
        path.parent.chmod(0o755 if what == "file" else 0o555)
        if what == "file":
            path.chmod(0o444)
            path.parent.chmod(0o777)
        try:
            assert "DATABASE_UNAVAILABLE" in _in_child(path, unprivileged=os.getuid() == 0)
        finally:
            path.parent.chmod(0o755)

    def test_a_refused_file_is_not_kept_locked(self, path: Path) -> None:
        path.write_bytes(b"nonsense" * 1000)
        for _ in range(2):
            with refused(FailedPrecondition, "DATABASE_UNAVAILABLE"):
                SqliteStorage(path)
        path.unlink()
        SqliteStorage(path).close()


_OPEN = """
import os, sys
from agentlightning.store.errors import StoreError
from agentlightning.store.storage.sqlite import SqliteStorage
if sys.argv[2] == "unprivileged":
    os.setgid(65534)
    os.setuid(65534)
try:
    SqliteStorage(sys.argv[1]).close()
    print("opened")
except StoreError as error:
    print(error.reason, error.message)
"""


def _in_child(path: Path, *, unprivileged: bool = False) -> str:
    """Open a store in another process, which drops the rights of root if it is to, and return what happened."""
    outcome = subprocess.run(
        [sys.executable, "-c", _OPEN, str(path), "unprivileged" if unprivileged else "same"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return outcome.stdout.strip()


class TestRestarting:
    async def test_a_restart_keeps_everything(self, path: Path, clock: FakeClock) -> None:
        """Goes wrong when what was answered is not on the disk."""
        first = opened(path, clock)
        api = first.api
        await publish(api, "rs-1")
        await enqueue(api, "queued-1", "queued-2", input=payload({"a": [1]}), config=config(max_attempts=2))
        running = await start(api, "running", worker_id="w1", lease=60)
        await add_spans(api, span(running, "kept"))
        await fail(api, await start(api, "failed"), v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR, message="why")
        await enqueue(api, "deleted")
        await delete(api, "deleted")
        await enqueue(api, "elsewhere", experiment="other")
        await beat(api, "w2", draining=True)
        before = [await get(api, name) for name in await ids(api)]
        totals = await statistics(api)
        stored = await spans(api, "running")
        store_id = first.engine.storage.store_id
        first.engine.close()
        second = opened(path, clock)
        api = second.api
        assert second.engine.storage.store_id == store_id
        assert [await get(api, name) for name in await ids(api)] == before
        after = await statistics(api)
        after.uptime.CopyFrom(totals.uptime)
        assert after == totals
        assert await spans(api, "running") == stored
        assert await queue(api) == ["queued-1", "queued-2"]
        assert (await worker(api, "w2")).draining
        assert (await get(api, "elsewhere", experiment="other")).status == QUEUING
        assert list((await add_spans(api, span(running))).sequence_ids) == [2]
        second.engine.close()

    async def test_a_watch_goes_on_after_a_restart(self, path: Path) -> None:
        first = opened(path)
        await enqueue(first.api, "r1", "r2")
        cursor = (await anext(first.engine.watch_rollouts(HERE, v1.WatchRolloutsRequest()))).cursor
        await delete(first.api, "r2")
        first.engine.close()
        second = opened(path)
        await enqueue(second.api, "r3")
        message = await anext(second.engine.watch_rollouts(HERE, v1.WatchRolloutsRequest(cursor=cursor)))
        assert [change.rollout.rollout_id or change.deleted_rollout_id for change in message.changes] == ["r2", "r3"]
        second.engine.close()

    async def test_numbers_of_changes_go_on_even_when_all_that_changed_was_forgotten(
        self, path: Path, clock: FakeClock
    ) -> None:
        first = opened(path, clock)
        await enqueue(first.api, "r1")
        await delete(first.api, "r1")
        stream = first.engine.watch_rollouts(HERE, v1.WatchRolloutsRequest())
        cursor = (await anext(stream)).cursor
        await stream.aclose()
        first.pass_time(DAY + 1)
        first.engine.close()
        second = opened(path, clock)
        await enqueue(second.api, "r2")
        message = await anext(second.engine.watch_rollouts(HERE, v1.WatchRolloutsRequest(cursor=cursor)))
        assert [change.rollout.rollout_id for change in message.changes] == ["r2"]
        second.engine.close()

    async def test_silence_counts_from_the_start_of_the_server(self, path: Path, clock: FakeClock) -> None:
        """Goes wrong when runners are given up for the time in which there was no server to hear them."""
        first = opened(path, clock)
        silent = await start(first.api, "silent", config=config(unresponsive=10))
        leased = await start(first.api, "leased", lease=10)
        await report(first.api, leased, v1.ATTEMPT_STATUS_RUNNING)
        await start(first.api, "limited", config=config(timeout=20))
        clock.advance(5)
        first.engine.close()
        clock.advance(30)
        second = opened(path, clock)
        second.pass_time(0)
        assert await status_of(second.api, "limited") == v1.ROLLOUT_STATUS_FAILED, "its own time went on"
        second.pass_time(10)
        assert await status_of(second.api, "silent") == v1.ROLLOUT_STATUS_PREPARING
        assert await status_of(second.api, "leased") == v1.ROLLOUT_STATUS_RUNNING
        second.pass_time(0.1)
        assert await status_of(second.api, "silent") == v1.ROLLOUT_STATUS_FAILED
        assert await status_of(second.api, "leased") == v1.ROLLOUT_STATUS_FAILED
        assert silent.rollout_id == "silent"
        second.engine.close()

    async def test_limits_that_passed_while_the_server_was_away_end_attempts_at_its_start(self, path: Path) -> None:
        engine = open_engine(f"sqlite:///{path}")
        await start(engine, "r1", config=config(timeout=0.1))
        engine.close()
        await asyncio.sleep(0.15)
        engine = open_engine(f"sqlite:///{path}")
        events = await everything(waiting_for(engine, "r1", timeout=2))
        assert events[0].finished.status == v1.ROLLOUT_STATUS_FAILED
        engine.close()

    async def test_a_deleted_id_is_remembered_over_a_restart(self, path: Path, clock: FakeClock) -> None:
        first = opened(path, clock)
        await enqueue(first.api, "r1")
        await delete(first.api, "r1")
        first.engine.close()
        second = opened(path, clock)
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await enqueue(second.api, "r1")
        second.engine.close()


class Odd(Exception):
    """Something that nobody expected."""


class Held:
    """A storage whose writer is held up, so that what comes meanwhile is done as one group."""

    def __init__(self, storage: SqliteStorage) -> None:
        self._storage = storage
        self._blocked = threading.Event()
        self._go_on = threading.Event()

    async def __aenter__(self) -> None:
        def hold(tx: Tx) -> None:
            self._blocked.set()
            self._go_on.wait(5)

        self._holding = asyncio.ensure_future(self._storage.run(hold))
        await asyncio.to_thread(self._blocked.wait, 5)

    async def __aexit__(self, *details: object) -> None:
        self._go_on.set()
        await self._holding


class TestGroups:
    async def test_a_work_that_fails_takes_no_other_of_its_group_with_it(self, path: Path) -> None:
        store = opened(path)
        storage = store.engine.storage
        assert isinstance(storage, SqliteStorage)
        commits: list[int] = []
        storage.on_commit(lambda signals: commits.append(len(signals)))

        def odd(tx: Tx) -> None:
            tx.add_experiment(type(tx.experiment("default"))(0, "half-made", 0, None, 0))  # type: ignore[misc]
            raise Odd

        def broken(tx: Tx) -> None:
            tx._execute("SELECT nonsense")  # noqa: SLF001

        async with Held(storage):
            works = [asyncio.ensure_future(enqueue(store.api, f"r{number}")) for number in range(3)]
            works.insert(1, asyncio.ensure_future(storage.run(odd)))
            works.insert(3, asyncio.ensure_future(storage.run(broken)))
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["list", "Odd", "list", "Internal", "list"]
        assert len(commits) == 1, "one commit for all of them"
        assert await queue(store.api) == ["r0", "r1", "r2"]
        assert await storage.read(lambda tx: tx.experiment("half-made")) is None
        store.engine.close()

    async def test_the_work_of_a_caller_that_was_cancelled_in_time_never_runs(self, path: Path) -> None:
        storage = SqliteStorage(path)
        ran: list[str] = []
        async with Held(storage):
            cancelled = asyncio.ensure_future(storage.run(lambda tx: ran.append("cancelled")))
            kept = asyncio.ensure_future(storage.run(lambda tx: ran.append("kept")))
            await asyncio.sleep(0)
            cancelled.cancel()
        await kept
        assert ran == ["kept"]
        storage.close()

    async def test_a_read_sees_every_write_that_was_answered(self, path: Path) -> None:
        store = opened(path)
        for number in range(50):
            await enqueue(store.api, f"r{number}")
            assert await status_of(store.api, f"r{number}") == QUEUING
        store.engine.close()

    async def test_a_read_is_not_held_up_by_a_write(self, path: Path) -> None:
        store = opened(path)
        await enqueue(store.api, "r1")
        storage = store.engine.storage
        assert isinstance(storage, SqliteStorage)
        async with Held(storage):
            assert await asyncio.wait_for(status_of(store.api, "r1"), 25) == QUEUING
        store.engine.close()

    async def test_a_reader_cannot_write(self, path: Path) -> None:
        store = opened(path)
        with pytest.raises(Exception, match="readonly"):
            await store.engine.storage.read(lambda tx: tx._execute("DELETE FROM rollouts"))  # noqa: SLF001
        store.engine.close()

    async def test_a_caller_whose_loop_is_gone_harms_nobody(self, path: Path) -> None:
        store = opened(path)
        storage = store.engine.storage
        assert isinstance(storage, SqliteStorage)
        async with Held(storage):

            def leave() -> None:
                loop = asyncio.new_event_loop()

                async def submit() -> None:
                    storage.run(lambda tx: None)

                loop.run_until_complete(submit())
                loop.close()

            await asyncio.to_thread(leave)
        await enqueue(store.api, "r1")
        assert await queue(store.api) == ["r1"]
        store.engine.close()


class TestClosing:
    async def test_works_at_hand_are_finished(self, path: Path) -> None:
        store = opened(path)
        works = [asyncio.ensure_future(enqueue(store.api, f"r{number}")) for number in range(50)]
        await asyncio.sleep(0)
        await asyncio.to_thread(store.engine.close)
        await asyncio.gather(*works)
        again = opened(path)
        assert len(await ids(again.api)) == 50
        again.engine.close()

    async def test_a_closed_store_leaves_one_file_that_other_tools_read(self, path: Path) -> None:
        store = opened(path)
        await enqueue(store.api, "r1")
        await claim(store.api)
        store.engine.close()
        assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db-lock"]
        other = sqlite3.connect(path)
        (row,) = other.execute("SELECT experiment, rollout_id, status, attempts FROM rollout_overview").fetchall()
        assert row == ("default", "r1", "preparing", 1)
        (attempt,) = other.execute("SELECT rollout_id, sequence_id, status FROM attempt_overview").fetchall()
        assert attempt == ("r1", 1, "preparing")
        other.close()


async def test_a_full_disk_is_told_and_the_store_lives_on(path: Path) -> None:
    store = opened(path)
    await enqueue(store.api, "r1")

    def limit(tx: Tx) -> None:
        tx._execute("PRAGMA max_page_count = 60")  # noqa: SLF001

    await store.engine.storage.run(limit)
    with refused(ResourceExhausted, "STORAGE_FULL"):
        for number in range(100):
            await enqueue(store.api, f"big{number}", input=payload("x" * 20_000))
    assert await status_of(store.api, "r1") == QUEUING
    kept = await queue(store.api)
    assert kept[0] == "r1"
    await delete(store.api, *kept[1:])
    await enqueue(store.api, "r2")
    assert await queue(store.api) == ["r1", "r2"]
    store.engine.close()


async def test_a_full_disk_in_a_group_fails_no_work_that_was_answered(path: Path) -> None:
    store = opened(path)
    storage = store.engine.storage
    assert isinstance(storage, SqliteStorage)
    await storage.run(lambda tx: tx._execute("PRAGMA max_page_count = 80"))  # noqa: SLF001
    async with Held(storage):
        small = [asyncio.ensure_future(enqueue(store.api, f"small{number}")) for number in range(3)]
        big = asyncio.ensure_future(enqueue(store.api, "big", input=payload("x" * 3_000_000)))
        small.append(asyncio.ensure_future(enqueue(store.api, "small3")))
        await asyncio.sleep(0.01)
    outcomes = await asyncio.gather(*small, big, return_exceptions=True)
    answered = [outcome[0].rollout_id for outcome in outcomes if isinstance(outcome, list)]
    assert isinstance(outcomes[-1], ResourceExhausted)
    assert sorted(await ids(store.api)) == sorted(answered)
    store.engine.close()

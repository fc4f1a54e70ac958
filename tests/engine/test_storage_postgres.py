"""What is special about a store in PostgreSQL: others write to it too, and it can be away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from calls import (
    AT_SUCCEEDED,
    HERE,
    QUEUING,
    add_spans,
    claim,
    claimed_ids,
    dequeue,
    enqueue,
    finish,
    get,
    ids,
    queue,
    refused,
    release,
    report,
    span,
    statistics,
    update,
    waiting_for,
)
from postgres import SERVER, connected

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import FailedPrecondition, Unavailable
from agentlightning.store.opening import open_engine
from agentlightning.store.storage import postgres, postgres_connection
from agentlightning.store.storage.base import Durability
from agentlightning.store.storage.postgres import PostgresStorage
from agentlightning.store.storage.rows import END_OF_TIME
from agentlightning.store.storage.tx import Tx
from agentlightning.store.storage.urls import without_password
from lightning_store import v1


@pytest.fixture
def url(quick_folder: Path) -> str:
    """A database with an empty store."""
    return SERVER.url_of(quick_folder)


@pytest.fixture
def one(url: str) -> Iterator[Engine]:
    """A server's engine on that database."""
    engine = open_engine(url)
    yield engine
    engine.close()


@pytest.fixture
def other(url: str, one: Engine) -> Iterator[Engine]:
    """Another one on the same database."""
    engine = open_engine(url)
    yield engine
    engine.close()


def has_to_itself(experiment: str, *rollout_ids: str, then: threading.Barrier | None = None) -> object:
    """Return a work that takes rollouts one after the other, and meets others after the first, once."""
    met = False

    def work(tx: Tx) -> None:
        nonlocal met
        row = tx.experiment(experiment)
        assert row is not None
        for rollout_id in rollout_ids:
            rollout = tx.rollout(row.key, rollout_id)
            assert rollout is not None
            tx.update_rollout(rollout, span_seq=rollout.span_seq + 1)
            if then is not None and not met:
                met = True
                then.wait(5)

    return work


class TestBesideOthers:
    async def test_works_that_wait_for_each_other_both_come_to_their_end(self, one: Engine, other: Engine) -> None:
        """Goes wrong when a deadlock is the caller's problem, or a work that was rolled back is done half."""
        await enqueue(one, "r1", "r2")
        meeting = threading.Barrier(2)
        works = [
            has_to_itself("default", "r1", "r2", then=meeting),
            has_to_itself("default", "r2", "r1", then=meeting),
        ]
        await asyncio.gather(one.storage.run(works[0]), other.storage.run(works[1]))  # type: ignore[arg-type]
        for name in ("r1", "r2"):
            numbers = await one.storage.read(lambda tx, name=name: tx.rollout(1, name) or tx.rollout(_key(tx), name))
            assert numbers is not None
            assert numbers.span_seq == 2

    async def test_changes_never_come_after_a_later_one_was_seen(self, one: Engine, other: Engine) -> None:
        """Goes wrong when numbers are committed out of order: a watcher that has seen 7 never looks for 6 again."""
        seen: dict[int, str] = {}
        is_over = False

        async def write(engine: Engine, name: str) -> None:
            for number in range(40):
                await asyncio.gather(*[enqueue(engine, f"{name}-{number}-{part}") for part in range(3)])

        async def watch() -> None:
            highest = 0
            while True:
                last_time = is_over
                found = await one.storage.read(
                    lambda tx: [
                        (view.row.change_seq, view.row.rollout_id) for view in tx.changed_rollouts(_key(tx), 0, 1000)
                    ]
                )
                new = {number: name for number, name in found if number not in seen}
                assert all(number > highest for number in new), f"{min(new)} came after {highest}"
                seen.update(new)
                highest = max(seen, default=0)
                if last_time:
                    return

        watching = asyncio.ensure_future(watch())
        await asyncio.gather(write(one, "a"), write(other, "b"), write(one, "c"), write(other, "d"))
        is_over = True
        await watching
        assert sorted(seen) == list(range(1, 4 * 40 * 3 + 1))
        assert len(set(seen.values())) == len(seen)

    async def test_an_empty_answer_is_a_true_one(self, one: Engine, other: Engine) -> None:
        """Goes wrong when a claim passes over what another transaction holds, which then leaves it in the queue."""
        await enqueue(one, "r1")
        holds = threading.Event()

        def hold(tx: Tx) -> None:
            rollout = tx.rollout(_key(tx), "r1")
            assert rollout is not None
            holds.set()
            threading.Event().wait(0.1)

        holding = asyncio.ensure_future(one.storage.run(hold))
        await asyncio.to_thread(holds.wait, 5)
        assert claimed_ids(await dequeue(other)) == ["r1"]
        await holding

    async def test_a_rollout_that_is_to_be_kept_is_not_deleted_in_place_of_one_that_is_locked(
        self, url: str, one: Engine
    ) -> None:
        def first_two(tx: Tx) -> list[str]:
            return [row.rollout_id for row in tx.finished_rollouts(_key(tx), END_OF_TIME, 2)]

        await enqueue(one, "r1", "r2", "r3")
        await finish(one, "r1", "r2", "r3")
        with connected(url) as connection, connection.transaction():
            connection.execute("SELECT key FROM rollouts WHERE rollout_id = 'r1' FOR UPDATE")
            assert await one.storage.run(first_two) == ["r2"]
        assert await one.storage.run(first_two) == ["r1", "r2"]

    async def test_the_same_create_at_two_servers_makes_one_rollout(self, one: Engine, other: Engine) -> None:
        for number in range(15):
            answers = await asyncio.gather(
                *[enqueue(engine, f"r{number}", experiment=f"new{number}") for engine in (one, other, one, other)]
            )
            assert all(answer == answers[0] for answer in answers)
            assert (await statistics(one, f"new{number}")).total_rollouts == 1

    async def test_the_same_claim_at_two_servers_is_one_claim(self, one: Engine, other: Engine) -> None:
        await enqueue(one, *[f"r{number}" for number in range(30)])
        for number in range(10):
            answers = await asyncio.gather(
                *[dequeue(engine, 2, claim_id=f"claim{number}") for engine in (one, other, one)]
            )
            assert len({tuple(claimed_ids(answer)) for answer in answers}) == 1
        assert (await statistics(one)).total_attempts == 20

    async def test_the_same_spans_at_two_servers_are_stored_once(self, one: Engine, other: Engine) -> None:
        await enqueue(one, "r1")
        attempt = await claim(one)
        for number in range(10):
            new = [span(attempt, f"{number}-{part}") for part in range(3)]
            answers = await asyncio.gather(*[add_spans(engine, *new) for engine in (one, other, one, other)])
            assert {tuple(answer.sequence_ids) for answer in answers} == {tuple(range(3 * number + 1, 3 * number + 4))}
        totals = await statistics(other)
        assert (totals.total_spans, (await get(one, "r1")).latest_attempt.status) == (30, v1.ATTEMPT_STATUS_RUNNING)

    async def test_numbers_that_servers_give_at_once_are_each_given_once(self, one: Engine, other: Engine) -> None:
        await enqueue(one, "r1")
        attempt = await claim(one)
        answers = await asyncio.gather(
            *[add_spans((one, other)[number % 2], span(attempt), span(attempt)) for number in range(40)]
        )
        assert sorted(number for answer in answers for number in answer.sequence_ids) == list(range(1, 81))

    async def test_a_rollout_that_is_deleted_meanwhile_does_not_come_back(self, one: Engine, other: Engine) -> None:
        request = [v1.DeleteRolloutsRequest(rollout_id_in=v1.StringSet(values=[f"r{number}"])) for number in range(20)]
        await enqueue(one, *[f"r{number}" for number in range(20)])
        for number in range(20):
            await asyncio.gather(
                one.delete_rollouts(HERE, request[number]), enqueue(other, f"r{number}"), return_exceptions=True
            )
        assert await queue(one) == []

    async def test_totals_are_right_after_all_that(self, url: str, one: Engine, other: Engine) -> None:
        async def work(engine: Engine, worker_id: str) -> None:
            while claims := (await dequeue(engine, 3, worker_id=worker_id)).claims:
                for entry in claims:
                    await add_spans(engine, span(entry.attempt))
                await report(engine, claims[0].attempt, AT_SUCCEEDED)
                await release(engine, *[entry.attempt for entry in claims[1:]])
                for entry in claims[1:]:
                    await update(engine, entry.attempt.rollout_id, status=v1.ROLLOUT_STATUS_CANCELLED)

        await asyncio.gather(*[enqueue(one, *[f"{part}-{number}" for number in range(10)]) for part in range(4)])
        await asyncio.gather(*[work(engine, f"w{number}") for number in range(3) for engine in (one, other)])
        totals = await statistics(one)
        assert totals.total_rollouts == 40
        assert totals.total_spans == totals.total_attempts == 40
        assert totals.total_workers == 3
        with connected(url) as connection:
            found = connection.execute("SELECT status, COUNT(*) FROM rollouts GROUP BY 1").fetchall()
        assert {entry.status: entry.count for entry in totals.rollouts_by_status} == dict(found)


def _key(tx: Tx) -> int:
    row = tx.experiment("default")
    assert row is not None
    return row.key


async def test_a_list_of_many_states_is_whole_and_does_not_fetch_a_page_of_each(
    one: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goes wrong when a server holds thousands of rollouts, each as large as a message may be, to list a hundred."""
    names = [f"r{number}" for number in range(60)]
    await enqueue(one, *names)
    await asyncio.gather(*[update(one, name, status=v1.ROLLOUT_STATUS_CANCELLED) for name in names[::2]])
    asked_for: list[int] = []
    execute = psycopg.Cursor.execute

    def note(cursor: Any, query: Any, values: Any = None, **options: Any) -> Any:
        if "LIMIT %s OFFSET %s" in query:
            asked_for.append(values[-2])
        return execute(cursor, query, values, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", note)
    statuses = v1.RolloutStatusSet(values=v1.RolloutStatus.values()[1:])
    assert await ids(one, v1.Page(page_size=50), status_in=statuses) == names[:50]
    assert sum(asked_for) < 300


class TestGroups:
    async def test_a_work_that_fails_takes_no_other_of_its_group_with_it(self, url: str) -> None:
        engine = Engine(PostgresStorage(url, "crash", writers=1), watches=False)
        blocked, go_on = threading.Event(), threading.Event()

        def hold(tx: Tx) -> None:
            blocked.set()
            go_on.wait(5)

        def odd(tx: Tx) -> None:
            tx.add_experiment(type(tx.experiment("default"))(0, "half-made", 0, None, 0))  # type: ignore[misc]
            raise LookupError

        def broken(tx: Tx) -> None:
            tx._execute("SELECT nonsense")  # noqa: SLF001

        holding = asyncio.ensure_future(engine.storage.run(hold))
        await asyncio.to_thread(blocked.wait, 5)
        works = [asyncio.ensure_future(enqueue(engine, f"r{number}")) for number in range(3)]
        works.insert(1, asyncio.ensure_future(engine.storage.run(odd)))  # type: ignore[arg-type]
        works.insert(3, asyncio.ensure_future(engine.storage.run(broken)))  # type: ignore[arg-type]
        works.append(asyncio.ensure_future(engine.storage.run(broken)))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        go_on.set()
        outcomes = await asyncio.gather(holding, *works, return_exceptions=True)
        kinds = [type(outcome).__name__ for outcome in outcomes]
        assert kinds == ["NoneType", "list", "LookupError", "list", "Internal", "list", "Internal"]
        assert await queue(engine) == ["r0", "r1", "r2"]
        assert await engine.storage.read(lambda tx: tx.experiment("half-made")) is None
        engine.close()


async def waits_for_a_lock(url: str, *but: int) -> int:
    """Return the process of a connection that waits for a lock, as soon as there is one, but not one of these."""
    find = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with connected(url) as connection:
        for _ in range(5000):
            for (pid,) in connection.execute(find):
                if pid not in but:
                    return int(pid)
            await asyncio.sleep(0.005)
    raise AssertionError("no connection waits for a lock")


class TestAway:
    async def test_waiters_survive_a_restart_of_the_database(self, one: Engine, other: Engine) -> None:
        await enqueue(one, "r1")
        attempt = await claim(one)
        held = asyncio.ensure_future(dequeue(one, wait=30))
        waiting = asyncio.ensure_future(anext(waiting_for(one, "r1")))
        for _ in range(500):
            if len(one._waiters._by_key) == 2:  # noqa: SLF001
                break
            await asyncio.sleep(0.005)
        await asyncio.to_thread(SERVER.restart)
        await enqueue(other, "r2")
        await report(other, attempt, AT_SUCCEEDED)
        assert claimed_ids(await asyncio.wait_for(held, 8)) == ["r2"]
        assert (await asyncio.wait_for(waiting, 8)).finished.rollout_id == "r1"

    async def test_a_server_does_not_wait_for_a_newer_release_that_changes_the_tables(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Goes wrong when its calls look like ones that others overtook, and it hangs when it is to end."""
        one = open_engine(url)
        monkeypatch.setattr(postgres, "_PATIENCE", 0.1)
        monkeypatch.setattr(postgres_connection, "_LONGEST_CHECK", "50ms")
        with connected(url) as connection, connection.transaction():
            connection.execute("LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE")
            assert postgres_connection._end_serving(connection)  # noqa: SLF001
            for call in (enqueue(one, "r1"), get(one, "r1")):
                with refused(Unavailable, "DATABASE_UNREACHABLE") as caught:
                    await asyncio.wait_for(call, 30)
                assert "a newer release is changing its tables" in caught.value.message
            await asyncio.wait_for(asyncio.to_thread(one.close), 30)

    async def test_a_server_goes_on_when_the_tables_could_not_be_changed(
        self, url: str, one: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_connection, "_LONGEST_CHECK", "50ms")
        held = asyncio.ensure_future(dequeue(one, wait=60))
        with connected(url) as connection, connection.transaction(force_rollback=True):
            connection.execute("LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE")
            assert postgres_connection._end_serving(connection)  # noqa: SLF001
            await waits_for_a_lock(url, await waits_for_a_lock(url))  # the first one was given up
        with closing(open_engine(url)) as other:
            await enqueue(other, "r1")
            assert claimed_ids(await asyncio.wait_for(held, 30)) == ["r1"]

    async def test_a_connection_that_was_lost_is_made_again_unseen(self, url: str, one: Engine) -> None:
        for number in range(3):
            with connected(url) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            await enqueue(one, f"r{number}")
        assert await queue(one) == ["r0", "r1", "r2"]

    async def test_a_database_that_stays_away_is_told_with_a_time_to_come_back(
        self, one: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "_PATIENCE", 0.1)
        await enqueue(one, "r1")
        with SERVER.stopped():
            for call in (enqueue(one, "r2"), get(one, "r1")):
                with refused(Unavailable, "DATABASE_UNREACHABLE") as caught:
                    await call
                assert caught.value.retry_after
        assert (await get(one, "r1")).status == QUEUING
        await enqueue(one, "r2")
        assert await queue(one) == ["r1", "r2"]

    def test_a_database_that_cannot_be_reached_is_named_without_its_password(self) -> None:
        with refused(FailedPrecondition, "DATABASE_UNAVAILABLE") as caught:
            open_engine("postgresql://me:secret@127.0.0.1:1/store")
        assert "postgresql://me:***@127.0.0.1:1/store" in caught.value.message
        assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@h/d?password=secret&port=1", "postgresql://me:***@h/d?password=***&port=1"),
        ("postgresql://me@h/d?host=/tmp/x", "postgresql://me@h/d?host=/tmp/x"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("memory://?max_bytes=9", "memory://?max_bytes=9"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(("durability", "setting"), [("power-cut", "on"), ("crash", "off"), ("none", "off")])
async def test_commits_wait_for_the_disk_where_they_must(url: str, durability: Durability, setting: str) -> None:
    engine = open_engine(url, durability)
    found = await engine.storage.run(lambda tx: tx._execute("SHOW synchronous_commit").fetchone()[0])  # noqa: SLF001
    engine.close()
    assert found == setting

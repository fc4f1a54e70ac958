"""The engine against a small model of rollouts, attempts and the queue, over thousands of random histories.

The model knows the promises of the contract and nothing of the engine: it keeps plain objects, and looks at all of
them whenever something has to be found.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from calls import (
    AT_FAILED,
    AT_PREPARING,
    AT_RUNNING,
    AT_SUCCEEDED,
    AT_TIMEOUT,
    AT_UNRESPONSIVE,
    CANCELLED,
    FAILED,
    HERE,
    PREPARING,
    QUEUING,
    REQUEUING,
    RUNNING,
    SUCCEEDED,
    add_spans,
    attempts,
    beat,
    config,
    delete,
    dequeue,
    enqueue,
    failure,
    list_rollouts,
    release,
    report,
    span,
    spans,
    start,
    start_attempt,
    statistics,
    update,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from postgres import QUICK_FOLDER, SERVER
from stores import SECOND, FakeClock, StorageKind, open_storage

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import NotFound
from agentlightning.store.storage.tx import Tx
from lightning_store import v1

T = TypeVar("T")

ENDED = {AT_SUCCEEDED, AT_FAILED, AT_TIMEOUT}
LIVE = {AT_PREPARING, AT_RUNNING}
FINISHED = {SUCCEEDED, FAILED, CANCELLED}
QUEUED = {QUEUING, REQUEUING}
BAD_ENDS = [AT_FAILED, AT_TIMEOUT, AT_UNRESPONSIVE]

NO_KIND = v1.ATTEMPT_FAILURE_KIND_UNSPECIFIED
AGENT = v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR
INFRASTRUCTURE = v1.ATTEMPT_FAILURE_KIND_INFRASTRUCTURE
LEASE_LOST = v1.ATTEMPT_FAILURE_KIND_LEASE_LOST
TIMED_OUT = v1.ATTEMPT_FAILURE_KIND_TIMEOUT

FREE_LOSSES = 10


@dataclass(eq=False)
class Attempt:
    """What the model knows of an attempt."""

    message: v1.Attempt
    number: int
    born: int
    start: int
    beat: int
    lease: int | None
    worker: str
    prior: int
    status: int = AT_PREPARING
    kind: int = NO_KIND
    charged: bool = True
    spans: int = 0


@dataclass(eq=False)
class Rollout:
    """What the model knows of a rollout."""

    name: str
    timeout: int | None
    silence: int | None
    most: int
    retried: list[int]
    budgets: dict[int, int]
    status: int
    place: int
    attempts: list[Attempt] = field(default_factory=list)
    given: int = 0
    spans: int = 0

    @property
    def latest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None


class Model:
    """The promises of the contract on plain objects."""

    def __init__(self) -> None:
        self.rollouts: dict[str, Rollout] = {}
        self.now = 0
        self.tick = 0
        self.deleted: set[str] = set()

    def next(self) -> int:
        self.tick += 1
        return self.tick

    def queue(self) -> list[str]:
        waiting = [rollout for rollout in self.rollouts.values() if rollout.status in QUEUED]
        return [rollout.name for rollout in sorted(waiting, key=lambda rollout: rollout.place)]

    def move(self, rollout: Rollout, status: int, *, keep_place: bool = False) -> None:
        if status in QUEUED and rollout.status not in QUEUED and not keep_place:
            rollout.place = self.next()
        rollout.status = status

    def begin(self, rollout: Rollout, message: v1.Attempt, lease: int | None, worker: str) -> None:
        number = 1 + (rollout.latest.number if rollout.latest else 0)
        attempt = Attempt(message, number, self.next(), self.now, self.now, lease, worker, rollout.status)
        rollout.attempts.append(attempt)
        self.move(rollout, PREPARING)

    def sign(self, rollout: Rollout, attempt: Attempt, *, works: bool) -> None:
        if attempt.status in ENDED:
            return
        attempt.beat = self.now
        revived = attempt.status == AT_UNRESPONSIVE
        changed = revived or (works and attempt.status == AT_PREPARING)
        if revived:
            attempt.kind, attempt.charged = NO_KIND, True
        if changed:
            attempt.status = AT_RUNNING
        is_current = attempt is rollout.latest and rollout.status not in FINISHED
        if is_current and (changed or (works and rollout.status in QUEUED)):
            self.move(rollout, RUNNING)

    def report(self, rollout: Rollout, attempt: Attempt, status: int, kind: int, *, free: bool = False) -> None:
        if attempt.status in ENDED:
            return
        attempt.status = status
        attempt.charged = not free
        attempt.kind = NO_KIND
        if status in LIVE:
            attempt.beat = self.now
        elif status != AT_SUCCEEDED:
            own = {AT_TIMEOUT: TIMED_OUT, AT_UNRESPONSIVE: LEASE_LOST}
            attempt.kind = kind or own.get(status, NO_KIND)
        if attempt is not rollout.latest or rollout.status in FINISHED:
            return
        follows = self.follows(rollout, attempt, free=free)
        if follows != rollout.status:
            self.move(rollout, follows, keep_place=free)

    def follows(self, rollout: Rollout, attempt: Attempt, *, free: bool) -> int:
        good = {AT_PREPARING: PREPARING, AT_RUNNING: RUNNING, AT_SUCCEEDED: SUCCEEDED}
        if attempt.status in good:
            return good[attempt.status]
        return REQUEUING if free or self.retries(rollout, attempt) else FAILED

    def retries(self, rollout: Rollout, attempt: Attempt) -> bool:
        if attempt.kind in rollout.budgets:
            used = sum(other.kind == attempt.kind for other in rollout.attempts)
            return used <= rollout.budgets[attempt.kind]
        used = sum(other.charged and other.kind not in rollout.budgets for other in rollout.attempts)
        return attempt.status in rollout.retried and used < max(1, rollout.most)

    def release(self, rollout: Rollout, attempt: Attempt) -> bool:
        if attempt.status != AT_PREPARING or attempt.spans:
            return False
        was_latest = attempt is rollout.latest
        rollout.attempts.remove(attempt)
        if was_latest and rollout.status == PREPARING:
            self.move(rollout, self.before(rollout, attempt), keep_place=True)
        return True

    def before(self, rollout: Rollout, attempt: Attempt) -> int:
        if attempt.prior in QUEUED | FINISHED:
            return attempt.prior
        if rollout.latest is None:
            return QUEUING
        return self.follows(rollout, rollout.latest, free=False)

    def expiry(self, rollout: Rollout, attempt: Attempt) -> int | None:
        if attempt.status not in LIVE:
            return None
        ends = [
            start + length
            for start, length in (
                (attempt.start, rollout.timeout),
                (attempt.beat, rollout.silence),
                (attempt.beat, attempt.lease),
            )
            if length is not None
        ]
        return min(ends, default=None)

    def look(self) -> None:
        due = [
            (expiry, attempt.born, rollout, attempt)
            for rollout in self.rollouts.values()
            for attempt in rollout.attempts
            if (expiry := self.expiry(rollout, attempt)) is not None and expiry < self.now
        ]
        for _, _, rollout, attempt in sorted(due, key=lambda entry: entry[:2]):
            if rollout.timeout is not None and self.now - attempt.start > rollout.timeout:
                self.report(rollout, attempt, AT_TIMEOUT, NO_KIND)
                continue
            lost = attempt.lease is not None and self.now - attempt.beat > attempt.lease
            losses = sum(not other.charged for other in rollout.attempts)
            free = lost and attempt.status == AT_PREPARING and losses < FREE_LOSSES
            self.report(rollout, attempt, AT_UNRESPONSIVE, NO_KIND, free=free)

    def restart(self) -> None:
        for rollout in self.rollouts.values():
            for attempt in rollout.attempts:
                attempt.beat = self.now


LEASES = st.sampled_from([None, None, 2, 5])
WORKERS = st.sampled_from(["", "w1", "w2"])
CONFIGS = st.fixed_dictionaries(
    {
        "timeout": st.sampled_from([None, None, 3, 8]),
        "silence": st.sampled_from([None, None, 2, 4]),
        "most": st.integers(0, 3),
        "retried": st.lists(st.sampled_from(BAD_ENDS), unique=True),
        "budgets": st.dictionaries(
            st.sampled_from([AGENT, INFRASTRUCTURE, LEASE_LOST, TIMED_OUT]), st.integers(0, 2), max_size=2
        ),
    }
)
PICKS = st.integers(0, 99)


class Histories(RuleBasedStateMachine):
    """Does the same to the engine and to the model, and compares all that can be seen after each step."""

    kind: ClassVar[StorageKind] = "memory"
    MOST_ROLLOUTS: ClassVar[int] = 5

    @initialize(limits=CONFIGS)
    def begin(self, limits: dict[str, object]) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="agentlightning-test-", dir=QUICK_FOLDER)
        self.clock = FakeClock()
        self.model = Model()
        self.model.now = self.clock.time
        self.made = 0
        self.highest_change = 0
        self.cursor = ""
        self.mirror: dict[str, int] = {}
        self.engine = self.open()
        self.enqueue(limits)

    def open(self) -> Engine:
        return Engine(open_storage(self.kind, Path(self.folder.name)), clock=self.clock, watches=False)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.close()
        self.loop.close()
        SERVER.take_back(Path(self.folder.name))
        self.folder.cleanup()

    def do(self, call: Awaitable[T]) -> T:
        return self.loop.run_until_complete(call)

    def pick(self, number: int) -> Rollout:
        return list(self.model.rollouts.values())[number % len(self.model.rollouts)]

    def pick_attempt(self, number: int) -> tuple[Rollout, Attempt]:
        made = [(rollout, attempt) for rollout in self.model.rollouts.values() for attempt in rollout.attempts]
        return made[number % len(made)]

    def has_room(self) -> bool:
        return len(self.model.rollouts) < self.MOST_ROLLOUTS

    def has_rollouts(self) -> bool:
        return bool(self.model.rollouts)

    def has_attempts(self) -> bool:
        return any(rollout.attempts for rollout in self.model.rollouts.values())

    def create(self, limits: dict[str, object], status: int) -> tuple[Rollout, v1.RolloutConfig]:
        self.made += 1
        rollout = Rollout(f"r{self.made}", status=status, place=self.model.next(), **limits)  # type: ignore[arg-type]
        self.model.rollouts[rollout.name] = rollout
        wanted = config(
            timeout=rollout.timeout,
            unresponsive=rollout.silence,
            max_attempts=rollout.most,
            retry_on=rollout.retried,  # type: ignore[arg-type]
            budgets=rollout.budgets,  # type: ignore[arg-type]
        )
        for name in ("timeout", "silence"):
            length = getattr(rollout, name)
            setattr(rollout, name, None if length is None else length * SECOND)
        return rollout, wanted

    @precondition(has_room)
    @rule(limits=CONFIGS)
    def enqueue(self, limits: dict[str, object]) -> None:
        rollout, wanted = self.create(limits, QUEUING)
        self.do(enqueue(self.engine, rollout.name, config=wanted))

    @precondition(has_room)
    @rule(limits=CONFIGS, lease=LEASES, worker=WORKERS)
    def start(self, limits: dict[str, object], lease: int | None, worker: str) -> None:
        rollout, wanted = self.create(limits, QUEUING)
        message = self.do(start(self.engine, rollout.name, lease=lease, worker_id=worker, config=wanted))
        self.model.begin(rollout, message, lease and lease * SECOND, worker)

    @rule(limit=st.integers(1, 3), lease=LEASES, worker=WORKERS)
    def dequeue(self, limit: int, lease: int | None, worker: str) -> None:
        expected = self.model.queue()[:limit]
        claims = self.do(dequeue(self.engine, limit, lease=lease, worker_id=worker)).claims
        assert [claim.rollout.rollout_id for claim in claims] == expected
        for claim in claims:
            rollout = self.model.rollouts[claim.rollout.rollout_id]
            self.model.begin(rollout, claim.attempt, lease and lease * SECOND, worker)

    @precondition(has_attempts)
    @rule(number=PICKS, count=st.integers(1, 3))
    def add_spans(self, number: int, count: int) -> None:
        rollout, attempt = self.pick_attempt(number)
        numbers = self.do(add_spans(self.engine, *[span(attempt.message) for _ in range(count)])).sequence_ids
        assert list(numbers) == [rollout.given + 1 + turn for turn in range(count)]
        rollout.given += count
        rollout.spans += count
        attempt.spans += count
        self.model.sign(rollout, attempt, works=True)

    @precondition(has_attempts)
    @rule(
        number=PICKS,
        status=st.sampled_from([AT_PREPARING, AT_RUNNING, AT_SUCCEEDED, AT_FAILED, AT_TIMEOUT, AT_UNRESPONSIVE]),
        kind=st.sampled_from([NO_KIND, AGENT, INFRASTRUCTURE]),
    )
    def report(self, number: int, status: int, kind: int) -> None:
        rollout, attempt = self.pick_attempt(number)
        told = failure(kind) if kind else None  # type: ignore[arg-type]
        self.do(report(self.engine, attempt.message, status, failure=told))  # type: ignore[arg-type]
        self.model.report(rollout, attempt, status, kind)

    @precondition(has_attempts)
    @rule(number=PICKS)
    def show_life(self, number: int) -> None:
        rollout, attempt = self.pick_attempt(number)
        self.do(report(self.engine, attempt.message))
        self.model.sign(rollout, attempt, works=False)

    @precondition(has_attempts)
    @rule(number=PICKS)
    def heartbeat(self, number: int) -> None:
        rollout, attempt = self.pick_attempt(number)
        commands = self.do(beat(self.engine, "w3", attempt.message)).commands
        stops = attempt.status in ENDED or attempt is not rollout.latest or rollout.status in FINISHED
        assert bool(commands) == stops
        if not stops:
            self.model.sign(rollout, attempt, works=False)

    @precondition(has_rollouts)
    @rule(
        number=PICKS,
        status=st.sampled_from([QUEUING, PREPARING, RUNNING, FAILED, SUCCEEDED, CANCELLED, REQUEUING]),
    )
    def say(self, number: int, status: int) -> None:
        rollout = self.pick(number)
        self.do(update(self.engine, rollout.name, status=status))
        self.model.move(rollout, status)

    @precondition(has_rollouts)
    @rule(number=PICKS, lease=LEASES, worker=WORKERS)
    def start_attempt(self, number: int, lease: int | None, worker: str) -> None:
        rollout = self.pick(number)
        message = self.do(start_attempt(self.engine, rollout.name, lease=lease, worker_id=worker))
        self.model.begin(rollout, message, lease and lease * SECOND, worker)

    @precondition(has_attempts)
    @rule(number=PICKS)
    def release(self, number: int) -> None:
        rollout, attempt = self.pick_attempt(number)
        released = self.do(release(self.engine, attempt.message))
        assert bool(released) == self.model.release(rollout, attempt)

    @precondition(has_rollouts)
    @rule(number=PICKS)
    def delete(self, number: int) -> None:
        rollout = self.pick(number)
        assert self.do(delete(self.engine, rollout.name)) == [rollout.name]
        del self.model.rollouts[rollout.name]
        self.model.deleted.add(rollout.name)

    @rule(seconds=st.sampled_from([1, 2, 3, 6]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock.time
        self.engine.look_after_attempts()
        self.model.look()

    @precondition(lambda self: self.kind != "memory")
    @rule(away=st.sampled_from([0, 3]))
    def restart(self, away: int) -> None:
        self.engine.close()
        self.clock.advance(away)
        self.model.now = self.clock.time
        self.engine = self.open()
        self.model.restart()
        self.engine.look_after_attempts()
        self.model.look()

    @invariant()
    def rollouts_are_as_the_model_says(self) -> None:
        found = {rollout.rollout_id: rollout for rollout in self.do(list_rollouts(self.engine)).rollouts}
        assert {name: rollout.status for name, rollout in found.items()} == {
            name: rollout.status for name, rollout in self.model.rollouts.items()
        }
        for name, rollout in self.model.rollouts.items():
            shown = found[name]
            assert shown.HasField("end_time") == (rollout.status in FINISHED)
            assert shown.HasField("latest_attempt") == bool(rollout.attempts)
            if rollout.latest is not None:
                assert shown.latest_attempt.attempt_id == rollout.latest.message.attempt_id

    @invariant()
    def attempts_are_as_the_model_says(self) -> None:
        for rollout in self.model.rollouts.values():
            shown = [
                (one.attempt_id, one.sequence_id, one.status, one.failure.kind, one.HasField("end_time"))
                for one in self.do(attempts(self.engine, rollout.name))
            ]
            assert shown == [
                (one.message.attempt_id, one.number, one.status, one.kind, one.status in ENDED)
                for one in rollout.attempts
            ]
            numbers = [one.number for one in rollout.attempts]
            assert len(set(numbers)) == len(numbers)

    @invariant()
    def the_queue_is_as_the_model_says(self) -> None:
        rows = self.engine.storage.run_blocking(lambda tx: [row for row, _ in tx.head_of_queue(self.key(tx), 100)])
        assert [row.rollout_id for row in rows] == self.model.queue()
        assert all(row.status in QUEUED for row in rows)

    @invariant()
    def totals_are_the_real_counts(self) -> None:
        totals = self.do(statistics(self.engine))
        rollouts = self.model.rollouts.values()
        by_status = {entry.status: entry.count for entry in totals.rollouts_by_status}
        statuses = [rollout.status for rollout in rollouts]
        assert by_status == {status: statuses.count(status) for status in set(statuses)}
        assert totals.total_rollouts == len(statuses)
        assert totals.total_attempts == sum(len(rollout.attempts) for rollout in rollouts)
        assert totals.total_spans == sum(rollout.spans for rollout in rollouts)

    @invariant()
    def spans_are_all_there(self) -> None:
        for rollout in self.model.rollouts.values():
            numbers = [one.sequence_id for one in self.do(spans(self.engine, rollout.name))]
            assert numbers == list(range(1, rollout.given + 1))

    @invariant()
    def change_numbers_are_unique_and_rise(self) -> None:
        def numbers(tx: Tx) -> list[int]:
            changed = [view.row.change_seq for view in tx.changed_rollouts(self.key(tx), 0, 1000)]
            return changed + [row.change_seq for row in tx.tombstones(self.key(tx), 0, 1000)]

        seen = self.engine.storage.run_blocking(numbers)
        assert len(set(seen)) == len(seen)
        assert max(seen, default=0) >= self.highest_change
        self.highest_change = max(seen, default=0)

    @invariant()
    def a_watcher_sees_what_the_model_says(self) -> None:
        async def catch_up() -> None:
            stream = self.engine.watch_rollouts(HERE, v1.WatchRolloutsRequest(cursor=self.cursor))
            async for message in stream:
                for change in message.changes:
                    if change.HasField("rollout"):
                        self.mirror[change.rollout.rollout_id] = change.rollout.status
                    else:
                        self.mirror.pop(change.deleted_rollout_id, None)
                self.cursor = message.cursor
                if message.caught_up:
                    break
            await stream.aclose()

        self.do(catch_up())
        assert self.mirror == {name: rollout.status for name, rollout in self.model.rollouts.items()}

    @invariant()
    def a_busy_worker_holds_a_live_attempt(self) -> None:
        live = {
            (rollout.name, attempt.message.attempt_id, attempt.worker)
            for rollout in self.model.rollouts.values()
            for attempt in rollout.attempts
            if attempt.status in LIVE
        }
        for shown in self.do(self.engine.list_workers(HERE, v1.ListWorkersRequest())).workers:
            held = (shown.current_rollout_id, shown.current_attempt_id, shown.worker_id)
            if shown.status == v1.WORKER_STATUS_BUSY:
                assert held in live
            else:
                assert not shown.HasField("current_rollout_id")

    @invariant()
    def what_was_deleted_is_gone(self) -> None:
        for name in sorted(self.model.deleted)[-1:]:
            try:
                self.do(update(self.engine, name))
            except NotFound:
                continue
            raise AssertionError(f"{name} was deleted and is there")

    def key(self, tx: Tx) -> int:
        experiment = tx.experiment("default")
        assert experiment is not None
        return experiment.key


class DurableHistories(Histories):
    """The same on a file, with restarts in between."""

    kind = "sqlite"


class SharedHistories(Histories):
    """The same in PostgreSQL, with restarts in between."""

    kind = "postgres"


_HISTORIES = int(os.environ.get("AGL_HISTORIES", "0"))
"""Of each storage so many histories, others each time; 0 runs a few, always the same."""

_COMMON = settings(
    deadline=None,
    database=None,
    derandomize=not _HISTORIES,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestHistoriesInMemory = Histories.TestCase
TestHistoriesInMemory.settings = settings(_COMMON, max_examples=_HISTORIES or 60)
TestHistoriesOnDisk = DurableHistories.TestCase
TestHistoriesOnDisk.settings = settings(_COMMON, max_examples=_HISTORIES or 25)
TestHistoriesInPostgres = SharedHistories.TestCase
TestHistoriesInPostgres.settings = settings(_COMMON, max_examples=_HISTORIES or 10)

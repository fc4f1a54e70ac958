from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from calls import config, enqueue, start, statistics, status_of
from stores import FakeClock

from agentlightning.store.api import CallContext
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.retention import Retention
from agentlightning.store.engine.watchdog import Watchdog
from agentlightning.store.storage.base import T, Work
from agentlightning.store.storage.memory import MemoryStorage
from lightning_store import v1


class Looker:
    """Counts the looks, and says when the next is due."""

    def __init__(self, *answers: float | Exception | None) -> None:
        self.answers = list(answers)
        self.times: list[float] = []

    def look(self) -> float | None:
        self.times.append(time.monotonic())
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def until(condition: Callable[[], bool], within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_it_looks_when_a_deadline_has_come_and_not_before() -> None:
    looker = Looker()
    dog = Watchdog(looker.look)
    began = time.monotonic()
    dog.expect(0.1)
    until(lambda: bool(looker.times))
    assert 0.1 <= looker.times[0] - began < 20
    time.sleep(0.05)
    assert len(looker.times) == 1
    dog.close()


def test_it_looks_again_when_it_is_told_to() -> None:
    looker = Looker(0.05, 0.05, None)
    dog = Watchdog(looker.look)
    dog.expect(0)
    until(lambda: len(looker.times) == 3)
    dog.close()


def test_a_nearer_deadline_is_kept_and_a_farther_one_does_not_delay_it() -> None:
    looker = Looker()
    dog = Watchdog(looker.look)
    began = time.monotonic()
    dog.expect(60)
    dog.expect(0.05)
    dog.expect(30)
    until(lambda: bool(looker.times))
    assert looker.times[0] - began < 20
    dog.close()


def test_it_lives_on_after_a_failure(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes wrong when one failure ends the thread: nothing ever times out again."""
    monkeypatch.setattr("agentlightning.store.engine.watchdog._PAUSE_AFTER_FAILURE", 0.02)
    looker = Looker(RuntimeError("no"), RuntimeError("no"))
    dog = Watchdog(looker.look)
    dog.expect(0)
    until(lambda: len(looker.times) == 3)
    assert "could not look after" in caplog.text
    dog.close()


def test_it_has_no_thread_before_it_is_needed_and_none_after_it_is_closed() -> None:
    others = _dogs()
    looker = Looker()
    dog = Watchdog(looker.look)
    assert _dogs() == others
    dog.expect(60)
    assert _dogs() > others
    dog.close()
    assert _dogs() == others
    dog.expect(0)
    time.sleep(0.02)
    assert not looker.times


def _dogs() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "agentlightning-watchdog"}


async def test_an_engine_that_is_dropped_takes_its_watchdog_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.engine.watchdog._LONGEST_SLEEP", 0.05)
    others = _dogs()
    engine = Engine(MemoryStorage())
    await start(engine, "r1", config=config(timeout=60))
    assert _dogs() > others
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    await asyncio.to_thread(until, lambda: _dogs() <= others)
    assert gone() is None


async def test_many_limits_end_at_once_by_themselves() -> None:
    engine = Engine(MemoryStorage())
    try:
        for number in range(250):
            await start(engine, f"r{number}", config=config(timeout=0.2))
        await enqueue(engine, "unlimited")
        await asyncio.sleep(0.2)
        for number in range(250):
            name = f"r{number}"
            for _ in range(300):
                if await status_of(engine, name) == v1.ROLLOUT_STATUS_FAILED:
                    break
                await asyncio.sleep(0.005)
            assert await status_of(engine, name) == v1.ROLLOUT_STATUS_FAILED
        assert await status_of(engine, "unlimited") == v1.ROLLOUT_STATUS_QUEUING
    finally:
        engine.close()


class CountingStorage(MemoryStorage):
    """Counts the works that the engine does by itself."""

    works = 0

    def run_blocking(self, work: Work[T]) -> T:
        self.works += 1
        return super().run_blocking(work)


async def cancelled(engine: Engine, *rollout_ids: str, experiment: str) -> None:
    await enqueue(engine, *rollout_ids, experiment=experiment)
    for rollout_id in rollout_ids:
        request = v1.UpdateRolloutRequest(rollout_id=rollout_id, status=v1.ROLLOUT_STATUS_CANCELLED)
        await engine.update_rollout(CallContext(experiment=experiment), request)


async def left(engine: Engine, experiment: str) -> int:
    return (await statistics(engine, experiment)).total_rollouts


async def test_only_experiments_that_may_have_something_to_delete_are_looked_at() -> None:
    """Goes wrong when each look costs a transaction for each experiment, though nothing has ended since."""
    storage, clock = CountingStorage(), FakeClock()
    engine = Engine(storage, retention=Retention(keep_finished_count=1), clock=clock, watches=False)
    for number in range(20):
        await cancelled(engine, "a", experiment=f"e{number}")
    clock.advance(1)
    engine.look_after_attempts()
    for ended, most in ((0, 1), (1, 3), (3, 5)):
        for number in range(ended):
            await cancelled(engine, f"b{ended}", experiment=f"e{number}")
        clock.advance(1)
        storage.works = 0
        engine.look_after_attempts()
        assert storage.works == most, "the attempts, the names, and an experiment each"
        clock.advance(1)
        engine.look_after_attempts()
    assert [await left(engine, f"e{number}") for number in range(20)] == [1] * 20
    engine.close()


async def test_an_experiment_whose_rollouts_cannot_be_deleted_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage, clock = MemoryStorage(), FakeClock()
    engine = Engine(storage, retention=Retention(keep_finished_count=1), clock=clock, watches=False)
    for name in ("e1", "e2", "e3"):
        await cancelled(engine, "a", "b", experiment=name)
    (key,) = storage._connection.execute("SELECT key FROM experiments WHERE name = 'e1'").fetchone()  # noqa: SLF001
    condition = f"WHEN old.experiment = {key} BEGIN SELECT RAISE(ABORT, 'no'); END"
    storage._connection.execute(f"CREATE TRIGGER refusal BEFORE DELETE ON rollouts {condition}")  # noqa: SLF001
    engine.look_after_attempts()
    assert [await left(engine, name) for name in ("e1", "e2", "e3")] == [2, 1, 1]
    assert "Experiment e1 keeps rollouts that are to be deleted" in caplog.text
    storage._connection.execute("DROP TRIGGER refusal")  # noqa: SLF001
    clock.advance(10)
    engine.look_after_attempts()
    assert await left(engine, "e1") == 1
    engine.close()

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from calls import config, enqueue, start, status_of

from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.watchdog import Watchdog
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

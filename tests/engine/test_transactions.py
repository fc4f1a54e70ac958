"""Works run wholly or not at all, on every storage."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from calls import (
    HERE,
    claimed_ids,
    context,
    delete,
    dequeue,
    enqueue,
    get,
    ids,
    named,
    prompt,
    queue,
    span,
    spans,
    start,
)
from stores import StorageKind, open_storage

from agentlightning.store.engine import resources, rollouts
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.scope import Scope
from agentlightning.store.errors import Unavailable
from agentlightning.store.storage.base import Storage
from agentlightning.store.storage.queries import Query
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Tx
from lightning_store import v1


class Odd(Exception):
    """Something that nobody expected."""


@pytest.fixture(params=get_args(StorageKind))
def storage(request: pytest.FixtureRequest, quick_folder: Path) -> Iterator[Storage]:
    opened = open_storage(request.param, quick_folder)
    yield opened
    opened.close()


@pytest.fixture
def engine(storage: Storage) -> Iterator[Engine]:
    opened = Engine(storage, watches=False)
    yield opened
    opened.close()


def in_default(engine: Engine, tx: Tx) -> Scope:
    return engine._scope(tx, "default", creates=False)  # noqa: SLF001  works are made of it


async def test_a_work_that_fails_leaves_nothing(engine: Engine, storage: Storage) -> None:
    """Goes wrong when one step of several stays: a rollout that is in no queue and has no attempt is lost."""
    await enqueue(engine, "r1", "r2")

    def work(tx: Tx) -> None:
        scope = in_default(engine, tx)
        rollouts.dequeue(scope, v1.DequeueRolloutsRequest(limit=1, worker_id="w1"), lambda: True)
        rollouts.update(scope, v1.UpdateRolloutRequest(rollout_id="r2", status=v1.ROLLOUT_STATUS_CANCELLED))
        rollouts.enqueue(scope, v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="r3")]))
        resources.add(scope, v1.AddResourcesRequest(resources_id="rs-1", resources=named(main=prompt("x"))))
        raise Odd

    before = await snapshot(engine)
    with pytest.raises(Odd):
        await storage.run(work)
    assert await snapshot(engine) == before
    assert await queue(engine) == ["r1", "r2"]


async def snapshot(engine: Engine) -> list[object]:
    """All that can be seen of a store."""

    def work(tx: Tx) -> list[object]:
        scope = in_default(engine, tx)
        return [
            list(tx.changed_rollouts(scope.experiment.key, 0, 100)),
            tx.attempts(1),
            tx.attempts(2),
            tx.tallies(scope.experiment.key),
            tx.last_change(scope.experiment),
            replace(in_default(engine, tx).experiment),
        ]

    return await engine.storage.read(work)


async def test_a_work_that_fails_tells_nobody(engine: Engine, storage: Storage) -> None:
    told: list[Signal] = []
    storage.on_commit(told.extend)
    await enqueue(engine, "r1")
    assert {signal.topic for signal in told} == {"changes", "queue"}
    told.clear()

    def work(tx: Tx) -> None:
        in_default(engine, tx).signal("queue")
        raise Odd

    with pytest.raises(Odd):
        await storage.run(work)
    assert told == []


async def test_what_was_remembered_of_a_failed_work_is_forgotten(engine: Engine, storage: Storage) -> None:
    """Goes wrong when a storage remembers, from one work to the next, what was rolled back."""
    await enqueue(engine, "r1")

    def new_experiment(tx: Tx) -> None:
        scope = engine._scope(tx, "new", creates=True)  # noqa: SLF001
        rollouts.enqueue(scope, v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="x")]))
        raise Odd

    def publication(tx: Tx) -> None:
        scope = in_default(engine, tx)
        resources.add(scope, v1.AddResourcesRequest(resources_id="rs-1"))
        for _ in range(10):
            scope.next_change()
        raise Odd

    for work in (new_experiment, publication):
        outcomes = await asyncio.gather(
            storage.run(work), enqueue(engine, ""), storage.run(work), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [Odd, list, Odd]
    (rollout,) = await enqueue(engine, "r2")
    assert not rollout.HasField("resources_id")
    assert [row.name for row, _ in await storage.read(_experiments)] == ["default"]
    changes = await storage.read(
        lambda tx: [view.row.change_seq for view in tx.changed_rollouts(in_default(engine, tx).experiment.key, 0, 100)]
    )
    assert changes == [1, 2, 3, 4]


def _experiments(tx: Tx) -> list[object]:
    return list(tx.experiments(Query(limit=10)))


async def test_works_at_once_each_see_the_ones_before(engine: Engine, storage: Storage) -> None:
    await asyncio.gather(*[enqueue(engine, f"r{number}") for number in range(100)])
    assert len(await ids(engine)) == 100
    assert sorted(await queue(engine)) == sorted(f"r{number}" for number in range(100))


async def test_works_of_many_threads_and_loops_are_safe(engine: Engine) -> None:
    def client(number: int) -> None:
        async def run() -> None:
            for turn in range(10):
                await enqueue(engine, f"r{number}-{turn}")

        asyncio.run(run())

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(await queue(engine)) == 60


async def test_a_waiter_of_another_loop_is_woken(engine: Engine) -> None:
    def client() -> list[str]:
        return claimed_ids(asyncio.run(dequeue(engine, wait=10)))

    waiting = asyncio.create_task(asyncio.to_thread(client))
    for _ in range(500):
        if engine._waiters._by_key:  # noqa: SLF001
            break
        await asyncio.sleep(0.002)
    await enqueue(engine, "r1")
    assert await asyncio.wait_for(waiting, 25) == ["r1"]


async def test_a_closed_storage_says_so(storage: Storage) -> None:
    storage.close()
    storage.close()
    for call in (storage.run, storage.read):
        with pytest.raises(Unavailable) as caught:
            await call(lambda tx: None)
        assert caught.value.reason == "STORE_CLOSED"
    with pytest.raises(Unavailable):
        storage.run_blocking(lambda tx: None)


async def test_a_closed_engine_says_so(engine: Engine) -> None:
    await enqueue(engine, "r1")
    engine.close()
    engine.close()
    with pytest.raises(Unavailable):
        await get(engine, "r1")
    with pytest.raises(Unavailable):
        await engine.release_attempts(HERE, v1.ReleaseAttemptsRequest())


async def test_change_numbers_are_unique_and_rise_in_each_experiment(engine: Engine, storage: Storage) -> None:
    seen: list[tuple[str, int]] = []
    for turn in range(5):
        for name in ("default", "other"):
            await enqueue(engine, f"r{turn}", experiment=name)
            highest = await storage.read(
                lambda tx, name=name: tx.last_change(engine._scope(tx, name, creates=False).experiment)  # noqa: SLF001
            )
            seen.append((name, highest))
        await engine.delete_rollouts(
            context("other"), v1.DeleteRolloutsRequest(rollout_id_in=v1.StringSet(values=[f"r{turn}"]))
        )
    assert [number for name, number in seen if name == "default"] == [1, 2, 3, 4, 5]
    assert [number for name, number in seen if name == "other"] == [1, 3, 5, 7, 9]


async def test_resources_and_scopes_go_with_the_last_span_that_came_from_them(engine: Engine, storage: Storage) -> None:
    """Goes wrong when every run leaves its resource attributes behind for ever: nothing ever shrinks."""

    async def run(name: str, *services: str) -> None:
        attempt = await start(engine, name)
        for service in services:
            group = v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[span(attempt), span(attempt)])])
            group.resource.attributes.add(key="service.name").value.string_value = service
            await engine.add_spans(HERE, v1.AddSpansRequest(resource_spans=[group]))

    def sources(tx: Tx) -> int:
        return int(tx._execute("SELECT COUNT(*) FROM sources").fetchone()[0])  # noqa: SLF001

    await run("r1", "a", "b")
    await run("r2", "b", "c")
    assert await storage.read(sources) == 3
    await delete(engine, "r1")
    assert await storage.read(sources) == 2
    assert len(await spans(engine, "r2")) == 4
    await delete(engine, "r2")
    assert await storage.read(sources) == 0

"""A store at work, and the calls that must cost the same however much it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

from calls import (
    AT_RUNNING,
    AT_SUCCEEDED,
    FAILED,
    HERE,
    PREPARING,
    QUEUING,
    REQUEUING,
    RUNNING,
    SUCCEEDED,
    attempts,
    beat,
    claim,
    config,
    delete,
    dequeue,
    enqueue,
    everything,
    following,
    get,
    key_of,
    list_rollouts,
    list_spans,
    publish,
    release,
    report,
    span,
    spans_request,
    start,
    statistics,
    update,
    waiting_for,
    watching,
    worker,
)
from stores import DAY, SECOND, FakeClock

from agentlightning.store.engine.cursors import encode
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.retention import Retention
from agentlightning.store.storage.base import Storage
from agentlightning.store.storage.schema import RESOURCES, ROLLOUTS
from lightning_store import v1

TRAIN, VAL = v1.ROLLOUT_MODE_TRAIN, v1.ROLLOUT_MODE_VAL
FINISHED_LAST = f"{VAL}-9"


class Busy:
    """A store at work: most of its rollouts are finished, some wait, some are worked on."""

    def __init__(self, engine: Engine, clock: FakeClock) -> None:
        self.engine = engine
        self.clock = clock
        self.held: list[v1.Attempt] = []
        self._made = 0

    def new_id(self) -> str:
        """An id that nothing has."""
        self._made += 1
        return f"new{self._made}"

    async def add_spans(self, attempt: v1.Attempt, scope: str) -> None:
        """Add two spans of a scope of their own."""
        request = spans_request(span(attempt), span(attempt))
        request.resource_spans[0].scope_spans[0].scope.name = scope
        await self.engine.add_spans(HERE, request)

    async def _finish(self, attempt: v1.Attempt) -> None:
        await self.add_spans(attempt, scope=attempt.rollout_id)
        await report(self.engine, attempt, AT_SUCCEEDED)

    async def fill(self, finished: int) -> None:
        """Put rollouts into an empty store."""
        modes = {TRAIN: finished - finished // 10, VAL: finished // 10}
        for experiment in ("other", "default"):
            for number in range(finished // 10):
                await publish(self.engine, f"set{number}", experiment=experiment)
            for mode, part in modes.items():
                names = [f"{mode}-{number}" for number in range(part)]
                for first in range(0, part, 500):
                    await enqueue(self.engine, *names[first : first + 500], experiment=experiment, mode=mode)
        for number in range(finished // 10):
            await beat(self.engine, f"idle{number}")
        for _ in range(0, finished, 500):
            claims = (await dequeue(self.engine, 500)).claims
            await asyncio.gather(*(self._finish(one.attempt) for one in claims))
        await delete(self.engine, *(f"{TRAIN}-{number}" for number in range(0, finished, 5)))
        await update(self.engine, f"{TRAIN}-1", status=FAILED)
        await enqueue(self.engine, *(f"queued{number}" for number in range(20)), mode=TRAIN)
        self.held = [await claim(self.engine, worker_id=f"holder{number}", lease=DAY) for number in range(5)]


Call = Callable[[Busy], Awaitable[object]]
CALLS: dict[str, Call] = {}


def call(function: Call) -> Call:
    """Count a function among the calls that are looked at."""
    CALLS[function.__name__] = function
    return function


@call
async def create(store: Busy) -> None:
    await enqueue(store.engine, store.new_id(), mode=TRAIN)
    await start(store.engine, store.new_id(), worker_id="w", mode=VAL)


@call
async def take_and_take_again(store: Busy) -> None:
    claim_id = store.new_id()
    for _ in range(2):
        await dequeue(store.engine, worker_id="w", lease=DAY, claim_id=claim_id)


@call
async def work(store: Busy) -> None:
    attempt = await claim(store.engine, worker_id="idle1", lease=DAY)
    await beat(store.engine, "idle1", attempt)
    await report(store.engine, attempt, AT_RUNNING)
    await store.engine.reserve_span_sequence_ids(
        HERE, v1.ReserveSpanSequenceIdsRequest(reservations=[v1.SequenceIdReservation(attempt=key_of(attempt))])
    )
    await store.add_spans(attempt, scope=store.new_id())
    await report(store.engine, attempt, AT_SUCCEEDED)


@call
async def hand_back(store: Busy) -> None:
    attempt = await claim(store.engine, worker_id="w")
    await release(store.engine, attempt)


@call
async def look_at_one(store: Busy) -> None:
    await get(store.engine, "queued3")
    await attempts(store.engine, FINISHED_LAST)
    await store.engine.get_latest_attempt(HERE, v1.GetLatestAttemptRequest(rollout_id=FINISHED_LAST))
    await list_spans(store.engine, FINISHED_LAST)
    await list_spans(store.engine, FINISHED_LAST, "latest")
    await update(store.engine, "queued3", mode=TRAIN)


@call
async def look_at_workers_and_totals(store: Busy) -> None:
    await worker(store.engine, "w")
    await store.engine.list_workers(HERE, v1.ListWorkersRequest(page=v1.Page(page_size=3)))
    await statistics(store.engine)
    await store.engine.list_experiments(HERE, v1.ListExperimentsRequest())


@call
async def look_at_the_latest_resources(store: Busy) -> None:
    await store.engine.get_latest_resources(HERE, v1.GetLatestResourcesRequest())


@call
async def wait(store: Busy) -> None:
    await everything(waiting_for(store.engine, FINISHED_LAST, "nobody", spans_view=v1.SPANS_VIEW_ALL_ATTEMPTS))


@call
async def watch(store: Busy) -> None:
    experiment = await store.engine.storage.read(lambda tx: tx.experiment("default"))
    assert experiment is not None
    last = await store.engine.storage.read(lambda tx: tx.last_change(experiment))
    stream = watching(store.engine, encode(store.engine.storage.store_id, experiment, last - 5))
    assert len((await following(stream)).changes) <= 5
    await stream.aclose()


@call
async def delete_some(store: Busy) -> None:
    await delete(store.engine, f"{VAL}-{store.new_id()}", f"{VAL}-1")
    await enqueue(store.engine, *(store.new_id() for _ in range(2)))
    selector = v1.RolloutStatusSet(values=[QUEUING])
    await store.engine.delete_rollouts(HERE, v1.DeleteRolloutsRequest(status_in=selector, limit=1))


@call
async def watch_over_attempts(store: Busy) -> None:
    await start(store.engine, store.new_id(), config=config(timeout=1))
    store.clock.advance(2)
    store.engine.look_after_attempts()


@call
async def make_room_in_memory(store: Busy) -> None:
    assert len(await store.engine.storage.run(lambda tx: tx.evictable_rollouts(5))) == 5


def _list(name: str, page: v1.Page, **conditions: Any) -> None:
    """Count a list and its second page among the calls."""

    async def list_two_pages(store: Busy) -> None:
        first = await list_rollouts(store.engine, page, **conditions)
        if first.page_info.next_page_token:
            second = v1.Page()
            second.CopyFrom(page)
            second.page_token = first.page_info.next_page_token
            await list_rollouts(store.engine, second, **conditions)

    CALLS[name] = list_two_pages


FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "rare": {"status_in": v1.RolloutStatusSet(values=[FAILED])},
    "unfinished": {"status_in": v1.RolloutStatusSet(values=[QUEUING, PREPARING, RUNNING, REQUEUING])},
    "mode": {"mode_in": v1.RolloutModeSet(values=[VAL])},
    "rare of a mode": {
        "status_in": v1.RolloutStatusSet(values=[QUEUING, FAILED]),
        "mode_in": v1.RolloutModeSet(values=[VAL, TRAIN]),
    },
    "named": {"rollout_id_in": v1.StringSet(values=["queued1", FINISHED_LAST, "nobody"])},
}
for order, down in product(ROLLOUTS.order, (False, True)):
    for filter_name, wanted in FILTERS.items():
        if not wanted or "rollout_id_in" in wanted or order in ("created", "status", "mode"):
            _list(
                f"list {filter_name} by {order}{' down' * down}",
                v1.Page(page_size=3, order_by=order, descending=down),
                **wanted,
            )
_list("list with a total", v1.Page(page_size=3, with_total_size=True), **FILTERS["rare"])


def _list_resources(order: str) -> None:
    async def list_resources(store: Busy) -> None:
        page = v1.Page(page_size=3, order_by=order, descending=True)
        await store.engine.list_resources(HERE, v1.ListResourcesRequest(page=page))

    CALLS[f"list resources by {order}"] = list_resources


for order in RESOURCES.order:
    _list_resources(order)


@call
async def forget_old_deletions(store: Busy) -> None:
    await delete(store.engine, (await enqueue(store.engine, store.new_id()))[0].rollout_id)
    store.engine.look_after_attempts()


async def _prune(store: Busy, retention: Retention) -> None:
    pruning = Engine(store.engine.storage, retention=retention, clock=store.clock, watches=False)
    pruning.look_after_attempts()


@call
async def keep_for_a_time(store: Busy) -> None:
    """Nothing is old enough."""
    await _prune(store, Retention(keep_finished=round(DAY * SECOND)))


@call
async def keep_a_number(store: Busy) -> None:
    """One is too many."""
    totals = {entry.status: entry.count for entry in (await statistics(store.engine)).rollouts_by_status}
    await _prune(store, Retention(keep_finished_count=totals[SUCCEEDED] + totals[FAILED] - 1))


@asynccontextmanager
async def busy(storage: Storage, finished: int) -> AsyncIterator[Busy]:
    """A store at work in a storage."""
    clock = FakeClock()
    store = Busy(Engine(storage, clock=clock, watches=False), clock)
    await store.fill(finished)
    yield store
    store.engine.close()

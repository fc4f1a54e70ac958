from __future__ import annotations

import pytest
from calls import (
    AT_RUNNING,
    AT_SUCCEEDED,
    AT_TIMEOUT,
    AT_UNRESPONSIVE,
    CANCELLED,
    HERE,
    add_spans,
    attempt_of,
    beat,
    claim,
    delete,
    dequeue,
    enqueue,
    fail,
    payload,
    refused,
    release,
    report,
    span,
    start,
    start_attempt,
    statistics,
    update,
    worker,
)
from stores import FakeClock, OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument, NotFound
from lightning_store import v1

IDLE, BUSY, UNKNOWN = v1.WORKER_STATUS_IDLE, v1.WORKER_STATUS_BUSY, v1.WORKER_STATUS_UNKNOWN


async def ids(api: StoreApi, page: v1.Page | None = None, **conditions: object) -> list[str]:
    request = v1.ListWorkersRequest(filter=v1.WorkerFilter(**conditions), page=page or v1.Page())
    return [found.worker_id for found in (await api.list_workers(HERE, request)).workers]


def cancelled(response: v1.UpdateWorkerResponse) -> list[str]:
    return [entry.cancel_attempt.attempt_id for entry in response.commands if entry.HasField("cancel_attempt")]


class TestHeartbeats:
    async def test_a_heartbeat_makes_a_worker_known(self, api: StoreApi, clock: FakeClock) -> None:
        response = await beat(api, "w1", heartbeat_stats=payload({"cpu": 0.5}))
        assert response.worker.status == UNKNOWN
        assert response.worker.heartbeat_stats == payload({"cpu": 0.5})
        assert response.worker.last_heartbeat_time.ToNanoseconds() == clock.time
        assert not response.worker.HasField("last_dequeue_time")
        assert not response.commands
        assert await worker(api, "w1") == response.worker

    async def test_what_a_heartbeat_leaves_out_stays(self, api: StoreApi, clock: FakeClock) -> None:
        await beat(api, "w1", heartbeat_stats=payload({"cpu": 0.5}), draining=True)
        clock.advance(5)
        after = (await beat(api, "w1")).worker
        assert after.heartbeat_stats == payload({"cpu": 0.5})
        assert after.draining
        assert after.last_heartbeat_time.ToNanoseconds() == clock.time

    async def test_a_heartbeat_is_a_sign_of_life_of_the_attempts_that_it_lists(
        self, api: StoreApi, clock: FakeClock
    ) -> None:
        held = await start(api, "r1", worker_id="w1")
        other = await start(api, "r2", worker_id="w1")
        clock.advance(3)
        await beat(api, "w1", held)
        after = await attempt_of(api, held)
        assert after.last_heartbeat_time.ToNanoseconds() == clock.time
        assert after.status == v1.ATTEMPT_STATUS_PREPARING
        assert await attempt_of(api, other) == other

    async def test_a_thousand_attempts_fit_in_a_heartbeat_and_no_more(self, api: StoreApi) -> None:
        held = [v1.Attempt(rollout_id=f"r{number}", attempt_id="at-1") for number in range(1001)]
        with refused(InvalidArgument, "TOO_MANY_IDS"):
            await beat(api, "w1", *held)
        assert len((await beat(api, "w1", *held[:1000])).commands) == 1000


class TestCommands:
    async def test_a_worker_is_told_to_stop_what_it_should_not_hold(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when nobody tells a runner that its attempt timed out or was called off: it works on."""
        attempts = {
            name: await start(api, name, worker_id="w1")
            for name in ("good", "superseded", "ended", "called-off", "deleted")
        }
        await start_attempt(api, "superseded")
        await report(api, attempts["ended"], AT_TIMEOUT)
        await update(api, "called-off", status=CANCELLED)
        await delete(api, "deleted")
        for _ in range(2):
            response = await beat(api, "w1", *attempts.values(), v1.Attempt(rollout_id="nobody", attempt_id="at-1"))
            told = {(entry.cancel_attempt.rollout_id, bool(entry.cancel_attempt.reason)) for entry in response.commands}
            assert told == {(name, True) for name in ("superseded", "ended", "called-off", "deleted", "nobody")}
        assert not (await beat(api, "w1", attempts["good"])).commands

    async def test_a_superseded_attempt_is_not_kept_alive_by_a_heartbeat(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "r1")
        first = await claim(api, worker_id="w1", lease=5)
        store.pass_time(6)
        await claim(api, worker_id="w2", lease=5)
        assert cancelled(await beat(api, "w1", first)) == [first.attempt_id]
        assert (await attempt_of(api, first)).status == AT_UNRESPONSIVE

    async def test_a_draining_worker_is_told_at_every_heartbeat(self, api: StoreApi) -> None:
        await beat(api, "w1", draining=True)
        for _ in range(2):
            (command,) = (await beat(api, "w1")).commands
            assert command.drain.reason
        assert (await worker(api, "w1")).draining
        assert not (await beat(api, "w1", draining=False)).commands
        assert not (await worker(api, "w1")).draining


class TestStatus:
    async def test_a_worker_is_busy_from_its_claim_to_the_end_of_its_attempt(
        self, api: StoreApi, clock: FakeClock
    ) -> None:
        await enqueue(api, "r1")
        attempt = await claim(api, worker_id="w1")
        busy = await worker(api, "w1")
        assert (busy.status, busy.current_rollout_id, busy.current_attempt_id) == (BUSY, "r1", attempt.attempt_id)
        assert busy.last_dequeue_time.ToNanoseconds() == busy.last_busy_time.ToNanoseconds() == clock.time
        clock.advance(2)
        await report(api, attempt, AT_RUNNING)
        assert await worker(api, "w1") == busy
        await report(api, attempt, AT_SUCCEEDED)
        idle = await worker(api, "w1")
        assert idle.status == IDLE
        assert not idle.HasField("current_rollout_id")
        assert not idle.HasField("current_attempt_id")
        assert idle.last_idle_time.ToNanoseconds() == clock.time
        assert idle.last_busy_time == busy.last_busy_time

    async def test_a_worker_that_finds_no_work_is_idle(self, api: StoreApi, clock: FakeClock) -> None:
        await dequeue(api, worker_id="w1")
        found = await worker(api, "w1")
        assert found.status == IDLE
        assert found.last_dequeue_time.ToNanoseconds() == found.last_idle_time.ToNanoseconds() == clock.time
        clock.advance(4)
        await dequeue(api, worker_id="w1")
        again = await worker(api, "w1")
        assert again.last_dequeue_time.ToNanoseconds() == clock.time
        assert again.last_idle_time == found.last_idle_time

    async def test_a_draining_worker_s_asking_is_noted(self, api: StoreApi, clock: FakeClock) -> None:
        await beat(api, "w1", draining=True)
        clock.advance(4)
        await dequeue(api, worker_id="w1")
        assert (await worker(api, "w1")).last_dequeue_time.ToNanoseconds() == clock.time

    async def test_asking_for_nothing_does_not_make_a_worker_idle(self, api: StoreApi) -> None:
        await dequeue(api, 0, worker_id="w1")
        assert (await worker(api, "w1")).status == UNKNOWN

    async def test_a_worker_with_several_attempts_is_busy_until_the_last_has_ended(self, api: StoreApi) -> None:
        """Goes wrong when a worker is bound to one attempt only: it shows as idle while it works on the others."""
        await enqueue(api, "r1", "r2", "r3")
        attempts = [entry.attempt for entry in (await dequeue(api, 3, worker_id="w1")).claims]
        assert (await worker(api, "w1")).current_rollout_id == "r3"
        await report(api, attempts[2], AT_SUCCEEDED)
        left = await worker(api, "w1")
        assert (left.status, left.current_rollout_id) == (BUSY, "r2")
        await fail(api, attempts[0])
        assert (await worker(api, "w1")).status == BUSY
        assert (await dequeue(api, worker_id="w1")).claims == []
        assert (await worker(api, "w1")).status == BUSY
        await report(api, attempts[1], AT_SUCCEEDED)
        assert (await worker(api, "w1")).status == IDLE

    @pytest.mark.parametrize("status", [AT_TIMEOUT, AT_UNRESPONSIVE], ids=v1.AttemptStatus.Name)
    async def test_nobody_knows_what_a_worker_does_whose_attempt_was_lost(
        self, api: StoreApi, status: v1.AttemptStatus.ValueType
    ) -> None:
        attempt = await start(api, "r1", worker_id="w1")
        await report(api, attempt, status)
        lost = await worker(api, "w1")
        assert (lost.status, lost.HasField("current_rollout_id")) == (UNKNOWN, False)

    async def test_a_worker_whose_attempt_is_revived_is_busy_again(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", worker_id="w1")
        await start(api, "other", worker_id="w2")
        await report(api, attempt, AT_UNRESPONSIVE)
        await update(api, "r1", status=v1.ROLLOUT_STATUS_REQUEUING)
        await add_spans(api, span(attempt))
        back = await worker(api, "w1")
        assert (back.status, back.current_attempt_id) == (BUSY, attempt.attempt_id)

    @pytest.mark.parametrize("way", ["start", "start_attempt", "report"])
    async def test_every_way_to_take_on_an_attempt_makes_a_worker_busy(self, api: StoreApi, way: str) -> None:
        if way == "start":
            attempt = await start(api, "r1", worker_id="w1")
        elif way == "start_attempt":
            await enqueue(api, "r1")
            attempt = await start_attempt(api, "r1", worker_id="w1")
        else:
            attempt = await report(api, await start(api, "r1"), worker_id="w1")
        found = await worker(api, "w1")
        assert (found.status, found.current_attempt_id) == (BUSY, attempt.attempt_id)

    async def test_an_attempt_that_changes_hands_leaves_its_first_worker_idle(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", worker_id="w1")
        await report(api, attempt, worker_id="w2")
        first, second = await worker(api, "w1"), await worker(api, "w2")
        assert (first.status, first.HasField("current_rollout_id")) == (IDLE, False)
        assert (second.status, second.current_rollout_id) == (BUSY, "r1")
        await report(api, attempt, worker_id="")
        assert (await worker(api, "w2")).status == IDLE

    async def test_handing_back_or_deleting_leaves_a_worker_idle(self, api: StoreApi) -> None:
        await release(api, await start(api, "r1", worker_id="w1"))
        await start(api, "r2", worker_id="w2")
        await delete(api, "r2")
        for name in ("w1", "w2"):
            found = await worker(api, name)
            assert (found.status, found.HasField("current_rollout_id")) == (IDLE, False)

    async def test_an_unnamed_worker_is_not_kept(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await claim(api)
        assert await ids(api) == []


class TestReading:
    async def test_an_unknown_worker_is_not_found_and_named(self, api: StoreApi) -> None:
        with refused(NotFound, "WORKER_NOT_FOUND") as caught:
            await worker(api, "w1")
        assert caught.value.metadata == {"worker_id": "w1"}

    async def test_workers_are_filtered(self, api: StoreApi) -> None:
        await beat(api, "east-1")
        await start(api, "r1", worker_id="east-2")
        await dequeue(api, worker_id="west-1")
        assert await ids(api) == ["east-1", "east-2", "west-1"]
        assert await ids(api, status_in=v1.WorkerStatusSet()) == []
        assert await ids(api, status_in=v1.WorkerStatusSet(values=[IDLE, UNKNOWN])) == ["east-1", "west-1"]
        assert await ids(api, worker_id_contains="east") == ["east-1", "east-2"]
        assert await ids(api, worker_id_contains="East") == []
        both = {"status_in": v1.WorkerStatusSet(values=[BUSY]), "worker_id_contains": "west"}
        assert await ids(api, **both) == []
        assert await ids(api, logic=v1.FILTER_LOGIC_OR, **both) == ["east-2", "west-1"]
        assert await ids(api, logic=v1.FILTER_LOGIC_OR) == ["east-1", "east-2", "west-1"]
        with refused(InvalidArgument, "INVALID_STATUS"):
            await ids(api, status_in=v1.WorkerStatusSet(values=[v1.WORKER_STATUS_UNSPECIFIED]))
        request = v1.ListWorkersRequest(
            filter=v1.WorkerFilter(worker_id_contains="1"), page=v1.Page(page_size=1, with_total_size=True)
        )
        assert (await api.list_workers(HERE, request)).page_info.total_size == 2
        assert (await statistics(api)).total_workers == 3

    async def test_workers_are_sorted_as_asked(self, api: StoreApi, clock: FakeClock) -> None:
        await beat(api, "b")
        clock.advance(1)
        await dequeue(api, worker_id="c")
        await start(api, "r1", worker_id="c")
        clock.advance(1)
        await dequeue(api, worker_id="a")
        await beat(api, "a")
        clock.advance(1)
        await fail(api, await start(api, "r2", worker_id="a"))
        expected = {
            "": "bca",
            "created": "bca",
            "worker_id": "abc",
            "status": "cab",  # busy, idle, unknown
            "last_heartbeat_time": "bac",  # an unset time comes last
            "last_dequeue_time": "cab",
            "last_busy_time": "cab",
            "last_idle_time": "cab",
        }
        for order, names in expected.items():
            for descending in (False, True):
                page = v1.Page(order_by=order, descending=descending)
                assert "".join(await ids(api, page)) == (names[::-1] if descending else names), order


async def test_the_watchdog_s_verdict_reaches_the_worker(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    attempt = await claim(api, worker_id="w1", lease=5)
    await report(api, attempt, AT_RUNNING)
    store.pass_time(6)
    assert (await worker(api, "w1")).status == UNKNOWN
    assert (await attempt_of(api, attempt)).status == AT_UNRESPONSIVE

from __future__ import annotations

import asyncio

import pytest
from calls import (
    AT_SUCCEEDED,
    FAILED,
    HERE,
    PREPARING,
    QUEUING,
    SUCCEEDED,
    add_spans,
    beat,
    claimed_ids,
    config,
    context,
    dequeue,
    enqueue,
    finish,
    get,
    ids,
    list_rollouts,
    payload,
    publish,
    queue,
    refused,
    report,
    span,
    start,
    statistics,
    worker,
)
from stores import SECOND, FakeClock, OpenStore, Variant

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument, NotFound
from lightning_store import v1


async def names(api: StoreApi, page: v1.Page | None = None) -> list[str]:
    request = v1.ListExperimentsRequest(page=page or v1.Page())
    return [found.name for found in (await api.list_experiments(HERE, request)).experiments]


async def drop(api: StoreApi, name: str) -> None:
    await api.delete_experiment(HERE, v1.DeleteExperimentRequest(name=name))


class TestApart:
    async def test_one_id_names_a_rollout_in_each_experiment(self, api: StoreApi) -> None:
        await enqueue(api, "r1", input=payload("here"))
        await enqueue(api, "r1", experiment="other", input=payload("there"))
        assert (await get(api, "r1")).input == payload("here")
        assert (await get(api, "r1", experiment="other")).input == payload("there")
        await finish(api, "r1")
        assert (await get(api, "r1", experiment="other")).status == QUEUING

    async def test_each_experiment_has_its_own_queue(self, api: StoreApi) -> None:
        await enqueue(api, "a")
        await enqueue(api, "b", experiment="other")
        assert claimed_ids(await dequeue(api, 10)) == ["a"]
        assert claimed_ids(await dequeue(api, 10, experiment="other")) == ["b"]

    async def test_each_experiment_has_its_own_latest_resources(self, api: StoreApi) -> None:
        await publish(api, "rs-1", "here")
        await publish(api, "rs-1", "there", experiment="other")
        await publish(api, "rs-2", "there", experiment="other")
        (here,) = await enqueue(api, "r1")
        (there,) = await enqueue(api, "r1", experiment="other")
        assert (here.resources_id, there.resources_id) == ("rs-1", "rs-2")

    async def test_workers_claims_and_totals_are_apart(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        await enqueue(api, "r1", experiment="other")
        await dequeue(api, worker_id="w1", claim_id="c1")
        there = await dequeue(api, worker_id="w1", claim_id="c1", experiment="other")
        assert claimed_ids(there) == ["r1"]
        await beat(api, "w2")
        assert (await worker(api, "w1")).current_attempt_id != there.claims[0].attempt.attempt_id
        here, other = await statistics(api), await statistics(api, "other")
        assert (here.total_rollouts, here.total_workers, here.total_attempts) == (2, 2, 1)
        assert (other.total_rollouts, other.total_workers, other.total_attempts) == (1, 1, 1)

    async def test_lists_show_one_experiment(self, api: StoreApi) -> None:
        await enqueue(api, "a")
        await enqueue(api, "b", experiment="other")
        found = await list_rollouts(api, v1.Page(with_total_size=True), experiment="other")
        assert [rollout.rollout_id for rollout in found.rollouts] == ["b"]
        assert found.page_info.total_size == 1
        any_of = {"rollout_id_contains": "", "mode_in": v1.RolloutModeSet(), "logic": v1.FILTER_LOGIC_OR}
        assert await ids(api, **any_of) == ["a"]

    async def test_limits_end_attempts_of_every_experiment(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "r1", experiment="other", config=config(timeout=5))
        await dequeue(api, experiment="other")
        store.pass_time(6)
        assert (await get(api, "r1", experiment="other")).status == FAILED


class TestMakingAndUnmaking:
    async def test_the_first_write_makes_an_experiment(self, api: StoreApi, clock: FakeClock) -> None:
        assert await names(api) == ["default"]
        clock.advance(3)
        await enqueue(api, "r1", experiment="by-rollout")
        await publish(api, "rs-1", experiment="by-resources")
        assert await names(api) == ["default", "by-rollout", "by-resources"]
        listed = (await api.list_experiments(HERE, v1.ListExperimentsRequest())).experiments
        assert listed[1].create_time.ToNanoseconds() - listed[0].create_time.ToNanoseconds() == 3 * SECOND

    async def test_a_worker_makes_none(self, api: StoreApi) -> None:
        """Goes wrong when a heartbeat turns a typo, or an experiment that was deleted, into an empty queue."""
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await api.update_worker(context("typo"), v1.UpdateWorkerRequest(worker_id="w1"))
        assert await names(api) == ["default"]

    async def test_a_write_that_fails_makes_none(self, api: StoreApi) -> None:
        with refused(InvalidArgument, "INVALID_CONFIG"):
            await enqueue(api, "r1", experiment="new", config=config(max_attempts=-1))
        assert await names(api) == ["default"]

    async def test_a_read_of_an_unknown_experiment_is_not_found(self, api: StoreApi) -> None:
        """Goes wrong when a typo in the name looks like an empty store."""
        typo = context("typo")
        reads = (
            api.get_rollout(typo, v1.GetRolloutRequest(rollout_id="r1")),
            api.list_rollouts(typo, v1.ListRolloutsRequest()),
            api.list_attempts(typo, v1.ListAttemptsRequest(rollout_id="r1")),
            api.get_latest_attempt(typo, v1.GetLatestAttemptRequest(rollout_id="r1")),
            api.list_spans(typo, v1.ListSpansRequest(rollout_id="r1")),
            api.get_latest_resources(typo, v1.GetLatestResourcesRequest()),
            api.get_resources(typo, v1.GetResourcesRequest(resources_id="rs-1")),
            api.list_resources(typo, v1.ListResourcesRequest()),
            api.get_worker(typo, v1.GetWorkerRequest(worker_id="w1")),
            api.list_workers(typo, v1.ListWorkersRequest()),
            api.get_statistics(typo, v1.GetStatisticsRequest()),
        )
        for read in reads:
            with refused(NotFound, "EXPERIMENT_NOT_FOUND") as caught:
                await read
            assert caught.value.metadata == {"experiment": "typo"}
        assert await names(api) == ["default"]

    @pytest.mark.parametrize("name", ["a b", "a/b", "x" * 201])
    async def test_an_experiment_needs_a_proper_name(self, api: StoreApi, name: str) -> None:
        with refused(InvalidArgument, "INVALID_ID"):
            await enqueue(api, "r1", experiment=name)

    async def test_a_deleted_experiment_is_gone_with_everything_in_it(self, api: StoreApi) -> None:
        await enqueue(api, "kept")
        (rollout,) = await enqueue(api, "r1", experiment="e", config=config(timeout=5))
        (claimed,) = (await dequeue(api, experiment="e", worker_id="w1")).claims
        request = v1.AddSpansRequest(
            resource_spans=[v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[span(claimed.attempt)])])]
        )
        await api.add_spans(context("e"), request)
        await publish(api, "rs-1", experiment="e")
        await drop(api, "e")
        assert await names(api) == ["default"]
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await get(api, "r1", experiment="e")
        assert await ids(api) == ["kept"]
        (again,) = await enqueue(api, "r1", experiment="e", input=payload("another body"))
        assert again.status == QUEUING
        assert not again.HasField("resources_id")
        totals = await statistics(api, "e")
        assert (totals.total_rollouts, totals.total_attempts, totals.total_spans) == (1, 0, 0)
        assert (totals.total_workers, totals.total_resources, totals.total_span_bytes) == (0, 0, 0)
        assert rollout.rollout_id == again.rollout_id

    async def test_the_default_experiment_is_always_there(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await drop(api, "default")
        assert await names(api) == ["default"]
        assert await ids(api) == []
        await beat(api, "w1")
        await enqueue(api, "r1", input=payload("another body"))
        assert await ids(api) == ["r1"]

    async def test_an_unknown_experiment_cannot_be_deleted(self, api: StoreApi) -> None:
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await drop(api, "typo")

    async def test_the_limits_of_a_deleted_experiment_harm_nobody(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "r1", experiment="e", config=config(timeout=5))
        await dequeue(api, experiment="e")
        await drop(api, "e")
        store.pass_time(10)
        assert await names(api) == ["default"]

    async def test_experiments_are_listed_and_sorted(self, api: StoreApi) -> None:
        for name in ("b", "a"):
            await enqueue(api, "r1", experiment=name)
        assert await names(api, v1.Page(order_by="created")) == ["default", "b", "a"]
        assert await names(api, v1.Page(order_by="name")) == ["a", "b", "default"]
        assert await names(api, v1.Page(order_by="name", descending=True)) == ["default", "b", "a"]
        request = v1.ListExperimentsRequest(page=v1.Page(page_size=1, with_total_size=True))
        assert (await api.list_experiments(HERE, request)).page_info.total_size == 3

    async def test_one_experiment_is_made_however_many_write_first(self, api: StoreApi) -> None:
        await asyncio.gather(*[enqueue(api, f"r{number}", experiment="new") for number in range(10)])
        assert await names(api) == ["default", "new"]
        assert len(await queue(api, experiment="new")) == 10


class TestTheStoreAsAWhole:
    async def test_totals_follow_everything_that_happens(self, api: StoreApi, clock: FakeClock) -> None:
        await enqueue(api, "r1", "r2", "r3")
        attempt = await start(api, "r4", worker_id="w1")
        await add_spans(api, span(attempt), span(attempt))
        await finish(api, "r1")
        await publish(api, "rs-1")
        clock.advance(7)
        totals = await statistics(api)
        by_status = {entry.status: entry.count for entry in totals.rollouts_by_status}
        assert by_status == {QUEUING: 2, v1.ROLLOUT_STATUS_RUNNING: 1, SUCCEEDED: 1}
        assert (totals.total_rollouts, totals.total_attempts, totals.total_spans) == (4, 2, 2)
        assert (totals.total_resources, totals.total_workers) == (1, 1)
        assert totals.uptime.ToSeconds() == 7
        await report(api, attempt, AT_SUCCEEDED)
        request = v1.DeleteRolloutsRequest(status_in=v1.RolloutStatusSet(values=[SUCCEEDED, PREPARING]))
        await api.delete_rollouts(HERE, request)
        totals = await statistics(api)
        assert {entry.status: entry.count for entry in totals.rollouts_by_status} == {QUEUING: 2}
        assert (totals.total_rollouts, totals.total_attempts, totals.total_spans) == (2, 0, 0)
        assert totals.total_span_bytes == 0

    async def test_the_store_says_which_it_is(self, variant: Variant, clock: FakeClock) -> None:
        async with variant.open(clock=clock) as opened:
            info = await opened.api.get_server_info(HERE, v1.GetServerInfoRequest())
            assert info == await opened.api.get_server_info(HERE, v1.GetServerInfoRequest())
            assert info.storage == (await statistics(opened.api)).storage == variant.kind
            assert info.store_id
            assert info.instance_id
            assert info.server_version
            assert info.max_message_bytes == 64 << 20
            assert info.start_time.ToNanoseconds() == clock.time
        clock.advance(60)
        async with variant.open(clock=clock) as again:
            after = await again.api.get_server_info(HERE, v1.GetServerInfoRequest())
        assert (after.store_id == info.store_id) == (variant.kind != "memory")
        assert after.instance_id != info.instance_id
        assert after.start_time.ToNanoseconds() == clock.time

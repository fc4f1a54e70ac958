from __future__ import annotations

import pytest
from calls import (
    AT_FAILED,
    AT_PREPARING,
    AT_RUNNING,
    AT_SUCCEEDED,
    AT_TIMEOUT,
    AT_UNRESPONSIVE,
    FAILED,
    REQUEUING,
    RUNNING,
    SUCCEEDED,
    add_spans,
    attempt_of,
    beat,
    claim,
    config,
    enqueue,
    fail,
    get,
    queue,
    refused,
    report,
    span,
    start,
    start_attempt,
    status_of,
    update,
    waiting_for,
)
from stores import OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument
from lightning_store import v1

AGENT = v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR
INFRASTRUCTURE = v1.ATTEMPT_FAILURE_KIND_INFRASTRUCTURE
CALLED_OFF = v1.ATTEMPT_FAILURE_KIND_CANCELLED
MISSING = v1.ATTEMPT_FAILURE_KIND_MISSING_RESOURCES
TIMED_OUT = v1.ATTEMPT_FAILURE_KIND_TIMEOUT
LEASE_LOST = v1.ATTEMPT_FAILURE_KIND_LEASE_LOST


class TestLimits:
    async def test_without_a_config_nothing_is_limited_and_nothing_retried(
        self, store: OpenStore, api: StoreApi
    ) -> None:
        attempt = await start(api, "r1")
        store.pass_time(1e6)
        assert (await attempt_of(api, attempt)).status == AT_PREPARING
        await fail(api, attempt)
        assert await status_of(api, "r1") == FAILED

    @pytest.mark.parametrize("lively", [False, True])
    async def test_an_attempt_may_run_for_exactly_its_timeout(
        self, store: OpenStore, api: StoreApi, lively: bool
    ) -> None:
        attempt = await start(api, "r1", config=config(timeout=10))
        store.pass_time(10)
        if lively:
            await add_spans(api, span(attempt))
        assert (await attempt_of(api, attempt)).status == (AT_RUNNING if lively else AT_PREPARING)
        store.pass_time(1e-9)
        after = await attempt_of(api, attempt)
        assert after.status == AT_TIMEOUT
        assert after.failure.kind == TIMED_OUT
        assert after.failure.message
        assert after.HasField("end_time")
        rollout = await get(api, "r1")
        assert (rollout.status, rollout.end_time) == (FAILED, after.end_time)

    async def test_the_timeout_is_that_of_each_attempt(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(timeout=10, max_attempts=2, retry_on=[AT_TIMEOUT]))
        await claim(api)
        store.pass_time(11)
        assert await status_of(api, "r1") == REQUEUING
        second = await claim(api)
        store.pass_time(10)
        assert (await attempt_of(api, second)).status == AT_PREPARING
        store.pass_time(1)
        assert await status_of(api, "r1") == FAILED

    async def test_an_attempt_may_be_silent_for_exactly_its_limit(self, store: OpenStore, api: StoreApi) -> None:
        attempt = await start(api, "r1", worker_id="w1", config=config(unresponsive=10))
        signs = (
            lambda: add_spans(api, span(attempt)),
            lambda: report(api, attempt),
            lambda: report(api, attempt, AT_RUNNING),
            lambda: beat(api, "w1", attempt),
        )
        for sign in signs:
            store.pass_time(10)
            await sign()
        store.pass_time(10)
        assert (await attempt_of(api, attempt)).status == AT_RUNNING
        store.pass_time(1e-9)
        after = await attempt_of(api, attempt)
        assert (after.status, after.failure.kind) == (AT_UNRESPONSIVE, LEASE_LOST)
        assert not after.HasField("end_time")
        assert await status_of(api, "r1") == FAILED

    async def test_the_timeout_is_looked_at_first(self, store: OpenStore, api: StoreApi) -> None:
        attempt = await start(api, "r1", config=config(timeout=10, unresponsive=5))
        store.pass_time(11)
        assert (await attempt_of(api, attempt)).status == AT_TIMEOUT

    async def test_a_changed_config_holds_for_the_attempt_at_work(self, store: OpenStore, api: StoreApi) -> None:
        shortened = await start(api, "shortened")
        lifted = await start(api, "lifted", config=config(timeout=5))
        await update(api, "shortened", config=config(timeout=3))
        await update(api, "lifted", config=config())
        store.pass_time(6)
        assert (await attempt_of(api, shortened)).status == AT_TIMEOUT
        assert (await attempt_of(api, lifted)).status == AT_PREPARING

    async def test_limits_beyond_the_end_of_time_are_no_limits(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when a length that the contract allows overflows the clock."""
        endless = v1.RolloutConfig()
        endless.timeout.seconds = endless.unresponsive_timeout.seconds = 315_576_000_000
        attempt = await start(api, "r1", config=endless)
        store.pass_time(1e9)
        assert (await attempt_of(api, attempt)).status == AT_PREPARING

    async def test_limits_end_attempts_by_themselves_while_a_caller_waits(self, living: OpenStore) -> None:
        """Goes wrong when the watchdog runs only inside calls: the only waiter waits for a hung runner for ever."""
        await start(living.api, "r1", config=config(timeout=0.1))
        await start(living.api, "r2", config=config(unresponsive=0.2))
        finished = [
            event.finished.rollout_id
            async for event in waiting_for(living.api, "r2", "r1", timeout=5)
            if event.HasField("finished")
        ]
        assert finished == ["r1", "r2"]

    async def test_a_nearer_limit_is_not_held_up_by_a_farther_one(self, living: OpenStore) -> None:
        await start(living.api, "later", config=config(timeout=60))
        await start(living.api, "sooner", config=config(timeout=0.1))
        events = [event async for event in waiting_for(living.api, "sooner", timeout=3)]
        assert events[0].finished.status == FAILED


class TestRetrying:
    @pytest.mark.parametrize("status", [AT_FAILED, AT_TIMEOUT, AT_UNRESPONSIVE], ids=v1.AttemptStatus.Name)
    async def test_a_bad_end_that_is_listed_is_retried_up_to_the_most_attempts(
        self, api: StoreApi, status: v1.AttemptStatus.ValueType
    ) -> None:
        await enqueue(api, "r1", config=config(max_attempts=3, retry_on=[status]))
        for expected in (REQUEUING, REQUEUING, FAILED):
            await report(api, await claim(api), status)
            rollout = await get(api, "r1")
            assert rollout.status == expected
            assert rollout.HasField("end_time") == (expected == FAILED)
        assert await queue(api) == []

    async def test_a_bad_end_that_is_not_listed_is_final(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=3, retry_on=[AT_TIMEOUT, AT_UNRESPONSIVE]))
        await fail(api, await claim(api))
        assert await status_of(api, "r1") == FAILED

    async def test_meaningless_entries_have_no_effect(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=3, retry_on=[AT_SUCCEEDED, AT_RUNNING, AT_PREPARING]))
        attempt = await claim(api)
        await report(api, attempt, AT_RUNNING)
        assert await status_of(api, "r1") == RUNNING
        await report(api, attempt, AT_SUCCEEDED)
        assert await status_of(api, "r1") == SUCCEEDED

    async def test_no_most_attempts_means_one(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(retry_on=[AT_FAILED]))
        await fail(api, await claim(api))
        assert await status_of(api, "r1") == FAILED

    async def test_an_attempt_on_demand_is_granted_and_counts(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=2, retry_on=[AT_FAILED]))
        await fail(api, await claim(api))
        await fail(api, await claim(api))
        assert await status_of(api, "r1") == FAILED
        third = await start_attempt(api, "r1")
        assert third.sequence_id == 3
        await fail(api, third)
        assert await status_of(api, "r1") == FAILED

    async def test_a_failure_that_says_so_is_not_retried(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=5, retry_on=[AT_FAILED], budgets={AGENT: 5}))
        await fail(api, await claim(api), AGENT, retryable=True)
        assert await status_of(api, "r1") == REQUEUING
        await fail(api, await claim(api), AGENT, retryable=False)
        assert await status_of(api, "r1") == FAILED

    async def test_a_runner_that_is_stopped_does_not_end_a_rollout_with_attempts_left(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=2, retry_on=[AT_FAILED]))
        await fail(api, await claim(api), CALLED_OFF)
        assert await status_of(api, "r1") == REQUEUING
        await fail(api, await claim(api), CALLED_OFF)
        assert await status_of(api, "r1") == FAILED

    async def test_each_kind_of_failure_has_its_own_budget(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(budgets={INFRASTRUCTURE: 2, AGENT: 1}))
        for kind, expected in (
            (INFRASTRUCTURE, REQUEUING),
            (AGENT, REQUEUING),
            (INFRASTRUCTURE, REQUEUING),
            (INFRASTRUCTURE, FAILED),
        ):
            await fail(api, await claim(api), kind)
            assert await status_of(api, "r1") == expected

    async def test_a_budget_of_nothing_grants_nothing(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=9, retry_on=[AT_FAILED], budgets={AGENT: 0}))
        await fail(api, await claim(api), AGENT)
        assert await status_of(api, "r1") == FAILED

    async def test_kinds_with_and_without_a_budget_do_not_use_up_each_other(self, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(max_attempts=2, retry_on=[AT_FAILED], budgets={INFRASTRUCTURE: 3}))
        for kind, expected in (
            (INFRASTRUCTURE, REQUEUING),
            (INFRASTRUCTURE, REQUEUING),
            (AGENT, REQUEUING),
            (INFRASTRUCTURE, REQUEUING),
            (MISSING, FAILED),
        ):
            await fail(api, await claim(api), kind)
            assert await status_of(api, "r1") == expected

    async def test_budgets_hold_for_what_the_server_finds_too(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "r1", config=config(timeout=5, unresponsive=2, budgets={TIMED_OUT: 1, LEASE_LOST: 1}))
        attempt = await claim(api)
        for _ in range(5):
            store.pass_time(1.1)
            await beat(api, "w1", attempt)
        assert await status_of(api, "r1") == REQUEUING
        await report(api, await claim(api), AT_RUNNING)
        store.pass_time(3)
        assert await status_of(api, "r1") == REQUEUING
        await report(api, await claim(api), AT_RUNNING)
        store.pass_time(3)
        assert await status_of(api, "r1") == FAILED


async def test_a_config_that_cannot_be_kept_is_refused_everywhere(api: StoreApi) -> None:
    await enqueue(api, "r1")
    for bad in (
        config(timeout=0),
        config(timeout=-1),
        config(unresponsive=0),
        config(unresponsive=-0.5),
        config(max_attempts=-1),
        config(budgets={AGENT: -1}),
        config(budgets={v1.ATTEMPT_FAILURE_KIND_UNSPECIFIED: 1}),
        v1.RolloutConfig(retry_budgets=[v1.RetryBudget(kind=AGENT), v1.RetryBudget(kind=AGENT)]),
    ):
        with refused(InvalidArgument, "INVALID_CONFIG"):
            await enqueue(api, "r2", config=bad)
        with refused(InvalidArgument, "INVALID_CONFIG"):
            await start(api, "r2", config=bad)
        with refused(InvalidArgument, "INVALID_CONFIG"):
            await update(api, "r1", config=bad)

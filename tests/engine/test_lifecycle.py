from __future__ import annotations

import itertools

import pytest
from calls import config, failure, seconds

from agentlightning.store.engine.lifecycle import Limits, PastAttempt, default_failure, rollout_after
from agentlightning.store.engine.messages import SECOND
from agentlightning.store.storage.rows import END_OF_TIME
from lightning_store import v1

PREPARING = v1.ATTEMPT_STATUS_PREPARING
RUNNING = v1.ATTEMPT_STATUS_RUNNING
FAILED = v1.ATTEMPT_STATUS_FAILED
SUCCEEDED = v1.ATTEMPT_STATUS_SUCCEEDED
UNRESPONSIVE = v1.ATTEMPT_STATUS_UNRESPONSIVE
TIMEOUT = v1.ATTEMPT_STATUS_TIMEOUT
BAD_ENDS = (FAILED, TIMEOUT, UNRESPONSIVE)

UNSPECIFIED = v1.ATTEMPT_FAILURE_KIND_UNSPECIFIED
AGENT = v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR
INFRASTRUCTURE = v1.ATTEMPT_FAILURE_KIND_INFRASTRUCTURE

REQUEUED = v1.ROLLOUT_STATUS_REQUEUING
OVER = v1.ROLLOUT_STATUS_FAILED


def past(*kinds: v1.AttemptFailureKind.ValueType, free: int = 0) -> list[PastAttempt]:
    """Attempts that ended badly, and some that cost nothing."""
    return [PastAttempt(kind, charged=True) for kind in kinds] + [PastAttempt(UNSPECIFIED, charged=False)] * free


class TestRolloutAfter:
    @pytest.mark.parametrize(
        ("status", "follows"),
        [
            (PREPARING, v1.ROLLOUT_STATUS_PREPARING),
            (RUNNING, v1.ROLLOUT_STATUS_RUNNING),
            (SUCCEEDED, v1.ROLLOUT_STATUS_SUCCEEDED),
        ],
    )
    def test_a_good_status_is_that_of_the_rollout(
        self, status: v1.AttemptStatus.ValueType, follows: v1.RolloutStatus.ValueType
    ) -> None:
        for limits in (config(), config(max_attempts=9, retry_on=BAD_ENDS)):
            assert rollout_after(status, None, limits, []) == follows

    def test_a_bad_end_is_retried_only_if_it_is_listed_and_attempts_are_left(self) -> None:
        for status, listed, most in itertools.product(BAD_ENDS, BAD_ENDS, range(4)):
            limits = config(max_attempts=most, retry_on=[listed])
            for made in range(1, 5):
                expected = REQUEUED if status == listed and made < max(1, most) else OVER
                assert rollout_after(status, None, limits, past(*[UNSPECIFIED] * made)) == expected

    def test_attempts_that_cost_nothing_do_not_count(self) -> None:
        limits = config(max_attempts=2, retry_on=[FAILED])
        assert rollout_after(FAILED, None, limits, past(UNSPECIFIED, free=9)) == REQUEUED
        assert rollout_after(FAILED, None, limits, past(UNSPECIFIED, UNSPECIFIED, free=9)) == OVER

    def test_a_kind_with_a_budget_follows_it_alone(self) -> None:
        limits = config(max_attempts=1, budgets={AGENT: 2})
        assert rollout_after(FAILED, failure(AGENT), limits, past(AGENT, AGENT)) == REQUEUED
        assert rollout_after(FAILED, failure(AGENT), limits, past(AGENT, AGENT, AGENT)) == OVER
        assert rollout_after(FAILED, failure(AGENT), limits, past(AGENT, *[INFRASTRUCTURE] * 9)) == REQUEUED

    def test_a_kind_without_a_budget_does_not_count_those_with_one(self) -> None:
        limits = config(max_attempts=2, retry_on=[FAILED], budgets={AGENT: 2})
        assert rollout_after(FAILED, failure(INFRASTRUCTURE), limits, past(AGENT, AGENT, INFRASTRUCTURE)) == REQUEUED
        assert rollout_after(FAILED, failure(INFRASTRUCTURE), limits, past(*[INFRASTRUCTURE] * 2)) == OVER

    def test_a_failure_that_says_so_is_not_retried(self) -> None:
        limits = config(max_attempts=9, retry_on=[FAILED], budgets={AGENT: 9})
        for retryable, expected in ((True, REQUEUED), (False, OVER)):
            for kind in (AGENT, INFRASTRUCTURE):
                told = failure(kind, retryable=retryable)
                assert rollout_after(FAILED, told, limits, past(kind)) == expected


class TestLimits:
    def test_an_attempt_without_limits_never_expires(self) -> None:
        limits = Limits(start_time=0, beat=0, lease=None, config=config())
        assert limits.expiry() is None
        assert limits.exceeded(END_OF_TIME) is None

    @pytest.mark.parametrize(
        ("limits", "end", "status"),
        [
            (Limits(100, 500, None, v1.RolloutConfig(timeout=seconds(1))), 100 + SECOND, TIMEOUT),
            (Limits(100, 500, None, v1.RolloutConfig(unresponsive_timeout=seconds(1))), 500 + SECOND, UNRESPONSIVE),
            (Limits(100, 500, 7, config()), 507, UNRESPONSIVE),
        ],
        ids=["timeout", "silence", "lease"],
    )
    def test_a_limit_is_exceeded_strictly_after_its_end(
        self, limits: Limits, end: int, status: v1.AttemptStatus.ValueType
    ) -> None:
        assert limits.exceeded(end) is None
        assert limits.exceeded(end + 1) == status
        assert limits.expiry() == end + 1

    def test_the_first_limit_counts_and_the_timeout_is_looked_at_first(self) -> None:
        both = Limits(0, 0, 2 * SECOND, config(timeout=3, unresponsive=4))
        assert both.expiry() == 2 * SECOND + 1
        assert both.exceeded(2 * SECOND + 1) == UNRESPONSIVE
        assert both.exceeded(5 * SECOND) == TIMEOUT

    def test_a_limit_beyond_the_end_of_time_is_none(self) -> None:
        endless = v1.RolloutConfig()
        endless.timeout.seconds = 315_576_000_000
        assert Limits(SECOND, SECOND, None, endless).expiry() is None
        assert Limits(SECOND, SECOND, 5, endless).expiry() == SECOND + 6

    def test_whatever_is_exceeded_has_expired_and_the_other_way_round(self) -> None:
        choices = [None, 1, 3]
        for timeout, silence, lease, beat in itertools.product(choices, choices, choices, (0, 1, 2)):
            lengths = {"timeout": timeout, "unresponsive": silence}
            limits = Limits(0, beat * SECOND, lease and lease * SECOND, config(**lengths))
            expiry = limits.expiry()
            for now in range(6):
                for moment in (now * SECOND, now * SECOND + 1):
                    assert (limits.exceeded(moment) is not None) == (expiry is not None and moment >= expiry)


def test_the_server_says_why_it_ended_an_attempt() -> None:
    for status, kind in (
        (TIMEOUT, v1.ATTEMPT_FAILURE_KIND_TIMEOUT),
        (UNRESPONSIVE, v1.ATTEMPT_FAILURE_KIND_LEASE_LOST),
    ):
        told = default_failure(status)
        assert told is not None
        assert told.kind == kind
        assert told.message
    assert default_failure(FAILED) is None

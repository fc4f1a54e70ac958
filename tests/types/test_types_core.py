from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    PaginatedResult,
    Rollout,
    RolloutConfig,
    TaskIfAny,
    Worker,
)


def make_attempt(rollout_id: str = "ro-1") -> Attempt:
    return Attempt(rollout_id=rollout_id, attempt_id="at-1", sequence_id=1, start_time=1.0)


def test_an_attempted_rollout_refuses_the_attempt_of_another() -> None:
    with pytest.raises(ValidationError, match="belongs to rollout ro-2"):
        AttemptedRollout(rollout_id="ro-1", input=None, start_time=1.0, attempt=make_attempt("ro-2"))
    assert AttemptedRollout(rollout_id="ro-1", input=None, start_time=1.0, attempt=make_attempt()).status == "queuing"


def test_a_default_config_neither_limits_nor_retries() -> None:
    config = RolloutConfig()
    assert (config.timeout_seconds, config.unresponsive_seconds, config.max_attempts) == (None, None, 1)
    assert config.retry_condition == []
    assert config.retry_budgets == {}


@pytest.mark.parametrize(
    "bad", [{"max_attempts": 0}, {"retry_condition": ["lost"]}, {"retry_budgets": {"timeout": -1}}]
)
def test_a_config_refuses_values_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RolloutConfig.model_validate(bad)


def test_a_status_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="status"):
        Rollout(rollout_id="ro-1", input=1, start_time=0.0, status="lost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="status"):
        Worker(worker_id="w", status="asleep")  # type: ignore[arg-type]


def test_a_page_is_the_sequence_of_its_items() -> None:
    page = PaginatedResult[int](items=[3, 4, 5], limit=3, offset=1, total=9)
    assert len(page) == 3
    assert list(page) == [3, 4, 5]
    assert page[0] == 3
    assert page[-1] == 5
    assert page[1:] == [4, 5]
    assert 4 in page
    assert page.index(5) == 2
    assert list(reversed(page)) == [5, 4, 3]


def test_a_page_equals_a_list_of_the_same_items_and_a_page_of_the_same_place() -> None:
    page = PaginatedResult[int](items=[3], limit=1, offset=0, total=2)
    assert page == [3]
    assert page != [3, 4]
    assert page == PaginatedResult[int](items=[3], limit=1, offset=0, total=2)
    assert page != PaginatedResult[int](items=[3], limit=1, offset=1, total=2)
    assert PaginatedResult[int](items=[], limit=-1, offset=0, total=0) == []


def test_a_page_shows_itself_shortly() -> None:
    page = PaginatedResult[int](items=list(range(1000)), limit=-1, offset=0, total=1000)
    assert repr(page) == "<PaginatedResult [0, 1, 2, ... 997 more] limit=-1 offset=0 total=1000>"
    assert str(page) == repr(page)


def test_no_task_is_an_answer() -> None:
    assert TaskIfAny(is_available=False).model_dump() == {"is_available": False, "task": None}

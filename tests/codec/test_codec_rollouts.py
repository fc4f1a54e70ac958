from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.codec.enums import ATTEMPT_STATUS, FAILURE_KIND, ROLLOUT_MODE, ROLLOUT_STATUS, WORKER_STATUS
from agentlightning.codec.errors import CodecError
from agentlightning.codec.payload import to_payload
from agentlightning.codec.rollouts import (
    attempted_rollout_from_message,
    config_from_message,
    config_to_message,
    failure_from_message,
    failure_to_message,
    mode_to_message,
    new_rollout_to_message,
    rollout_from_message,
)
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptFailure,
    EnqueueRolloutRequest,
    LateReport,
    Rollout,
    RolloutConfig,
)
from lightning_store import v1

ATTEMPT = v1.Attempt(
    rollout_id="ro-1",
    attempt_id="at-1",
    sequence_id=2,
    status=v1.ATTEMPT_STATUS_FAILED,
    start_time=Timestamp(seconds=100, nanos=500_000_000),
    end_time=Timestamp(seconds=101),
    worker_id="w",
    last_heartbeat_time=Timestamp(seconds=100, nanos=750_000_000),
    metadata=to_payload({"a": 1}, ""),
    failure=v1.AttemptFailure(kind=v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR, message="boom", retryable=False),
    late_report=v1.LateReport(
        status=v1.ATTEMPT_STATUS_SUCCEEDED,
        failure=v1.AttemptFailure(message="late"),
        report_time=Timestamp(seconds=102),
    ),
)
ROLLOUT = v1.Rollout(
    rollout_id="ro-1",
    input=to_payload({"q": (1, 2)}, ""),
    mode=v1.ROLLOUT_MODE_VAL,
    resources_id="rs-1",
    status=v1.ROLLOUT_STATUS_REQUEUING,
    config=v1.RolloutConfig(timeout=Duration(seconds=5), max_attempts=3, retry_on=[v1.ATTEMPT_STATUS_TIMEOUT]),
    metadata=to_payload({"m": None}, ""),
    start_time=Timestamp(seconds=99),
    end_time=Timestamp(seconds=103),
    latest_attempt=ATTEMPT,
)


def test_a_rollout_with_an_attempt_is_read_whole() -> None:
    rollout = rollout_from_message(ROLLOUT)
    expected = AttemptedRollout(
        rollout_id="ro-1",
        input={"q": [1, 2]},
        start_time=99.0,
        end_time=103.0,
        mode="val",
        resources_id="rs-1",
        status="requeuing",
        config=RolloutConfig(timeout_seconds=5.0, max_attempts=3, retry_condition=["timeout"]),
        metadata={"m": None},
        attempt=Attempt(
            rollout_id="ro-1",
            attempt_id="at-1",
            sequence_id=2,
            start_time=100.5,
            end_time=101.0,
            status="failed",
            worker_id="w",
            last_heartbeat_time=100.75,
            metadata={"a": 1},
            failure=AttemptFailure(kind="agent_error", message="boom", retryable=False),
            late_report=LateReport(
                status="succeeded", report_time=102.0, failure=AttemptFailure(kind=None, message="late")
            ),
        ),
    )
    assert rollout == expected
    assert type(rollout) is AttemptedRollout
    # What is built without validation is a model like any other.
    assert rollout.model_dump() == expected.model_dump()
    assert AttemptedRollout.model_validate_json(rollout.model_dump_json()) == rollout
    assert rollout.model_copy(deep=True) == rollout


def test_a_rollout_without_an_attempt_is_a_plain_one() -> None:
    message = v1.Rollout(rollout_id="ro-1", status=v1.ROLLOUT_STATUS_QUEUING, start_time=Timestamp(seconds=1))
    rollout = rollout_from_message(message)
    assert type(rollout) is Rollout
    assert rollout == Rollout(rollout_id="ro-1", input=None, start_time=1.0)
    assert rollout.model_dump() == Rollout(rollout_id="ro-1", input=None, start_time=1.0).model_dump()


def test_a_claim_shows_its_own_attempt() -> None:
    other = v1.Attempt()
    other.CopyFrom(ATTEMPT)
    other.attempt_id = "at-2"
    assert attempted_rollout_from_message(ROLLOUT, other).attempt.attempt_id == "at-2"


def test_null_metadata_is_none_and_unset_metadata_too() -> None:
    message = v1.Rollout(status=v1.ROLLOUT_STATUS_QUEUING, metadata=to_payload(None, ""))
    assert rollout_from_message(message).metadata is None
    message.ClearField("metadata")
    assert rollout_from_message(message).metadata is None


CONFIGS = st.builds(
    RolloutConfig,
    timeout_seconds=st.none() | st.integers(1, 10**12).map(lambda nanos: nanos / 10**6),
    unresponsive_seconds=st.none() | st.integers(1, 10**12).map(lambda nanos: nanos / 10**6),
    max_attempts=st.integers(1, 2**31 - 1),
    retry_condition=st.lists(
        st.sampled_from(["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"])
    ),
    retry_budgets=st.dictionaries(
        st.sampled_from(["agent_error", "infrastructure", "timeout", "lease_lost", "missing_resources"]),
        st.integers(0, 2**31 - 1),
    ),
)


@given(CONFIGS)
def test_a_config_comes_back(config: RolloutConfig) -> None:
    assert config_from_message(v1.RolloutConfig.FromString(config_to_message(config).SerializeToString())) == config


def test_no_config_is_the_default_one() -> None:
    assert config_from_message(v1.RolloutConfig()) == RolloutConfig()


def test_an_infinite_limit_is_no_limit() -> None:
    message = config_to_message(RolloutConfig(timeout_seconds=math.inf, unresponsive_seconds=math.inf))
    assert not message.HasField("timeout")
    assert not message.HasField("unresponsive_timeout")


@pytest.mark.parametrize("bad", [{"max_attempts": 3}, None, 5])
def test_a_config_of_another_type_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="config must be a RolloutConfig"):
        config_to_message(bad)


@given(
    st.builds(
        AttemptFailure,
        kind=st.none() | st.sampled_from(["agent_error", "cancelled", "lease_lost"]),
        message=st.text(),
        retryable=st.booleans(),
    )
)
def test_a_failure_comes_back(failure: AttemptFailure) -> None:
    assert failure_from_message(failure_to_message(failure)) == failure


def test_a_new_rollout_says_what_its_author_said() -> None:
    request = EnqueueRolloutRequest(
        input={"q": 1}, mode="test", resources_id="rs-1", config=RolloutConfig(max_attempts=2), metadata={"k": "v"}
    )
    assert new_rollout_to_message(request, "ro-9") == v1.NewRollout(
        rollout_id="ro-9",
        input=to_payload({"q": 1}, ""),
        mode=v1.ROLLOUT_MODE_TEST,
        resources_id="rs-1",
        config=v1.RolloutConfig(max_attempts=2),
        metadata=to_payload({"k": "v"}, ""),
    )
    request.rollout_id = "mine"
    assert new_rollout_to_message(request, "ro-9").rollout_id == "mine"


def test_a_new_rollout_without_metadata_has_empty_metadata() -> None:
    message = new_rollout_to_message(EnqueueRolloutRequest(input=None), "ro-9")
    assert message.metadata == to_payload({}, "")
    assert message.input == to_payload(None, "")
    assert not message.HasField("config")


def test_bad_parts_of_a_new_rollout_are_named() -> None:
    with pytest.raises(TypeError, match=r"^input\.messages\[3\]\.score is nan"):
        new_rollout_to_message(EnqueueRolloutRequest(input={"messages": [0, 0, 0, {"score": math.nan}]}), "ro-9")
    with pytest.raises(TypeError, match=r"^metadata\.x is a set"):
        new_rollout_to_message(EnqueueRolloutRequest(input=1, metadata={"x": set()}), "ro-9")


def test_an_unknown_word_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="rollout mode must be one of train, val, test, not 'dev'"):
        mode_to_message("dev")
    with pytest.raises(ValueError, match="rollout status must be one of"):
        ROLLOUT_STATUS.number([])  # type: ignore[arg-type]


@pytest.mark.parametrize("table", [ATTEMPT_STATUS, FAILURE_KIND, ROLLOUT_MODE, ROLLOUT_STATUS, WORKER_STATUS])
def test_a_value_of_a_newer_contract_raises_the_codec_error(table: Any) -> None:
    with pytest.raises(CodecError, match="99, which this release does not know"):
        table.word(99)


@pytest.mark.parametrize(
    ("table", "enum"),
    [
        (ATTEMPT_STATUS, v1.AttemptStatus),
        (FAILURE_KIND, v1.AttemptFailureKind),
        (ROLLOUT_MODE, v1.RolloutMode),
        (ROLLOUT_STATUS, v1.RolloutStatus),
        (WORKER_STATUS, v1.WorkerStatus),
    ],
)
def test_every_value_of_the_contract_has_its_word(table: Any, enum: Any) -> None:
    for number in enum.values():
        if number:
            assert table.number(table.word(number)) == number


def test_an_unknown_status_in_a_rollout_raises_the_codec_error() -> None:
    for field in ("status", "mode"):
        message = v1.Rollout()
        message.CopyFrom(ROLLOUT)
        setattr(message, field, 99)
        with pytest.raises(CodecError):
            rollout_from_message(message)

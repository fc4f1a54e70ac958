from __future__ import annotations

import math
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.codec.times import from_duration, from_timestamp, to_duration, to_timestamp


@given(st.floats(min_value=10_000_000, max_value=253_402_300_799) | st.floats(-62_135_596_800, -10_000_000))
def test_times_since_the_epoch_come_back_as_the_same_float(seconds: float) -> None:
    message = to_timestamp(seconds, "time")
    assert 0 <= message.nanos < 1_000_000_000
    assert from_timestamp(Timestamp.FromString(message.SerializeToString())) == seconds


@given(st.integers(-(10**15), 10**15), st.integers(0, 9))
def test_anything_of_nine_decimals_comes_back(number: int, decimals: int) -> None:
    seconds = number / 10**decimals
    if abs(seconds) <= 10**6:
        assert from_timestamp(to_timestamp(seconds, "time")) == seconds
        message = to_duration(seconds, "length")
        assert from_duration(message) == seconds
        assert message.ToNanoseconds() == round(seconds * 10**9)


def test_the_clock_comes_back() -> None:
    for _ in range(1000):
        now = time.time()
        assert from_timestamp(to_timestamp(now, "time")) == now


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1.7e18, -1e12])
def test_a_time_that_is_none_is_named(seconds: float) -> None:
    with pytest.raises(ValueError, match="last_heartbeat_time must be"):
        to_timestamp(seconds, "last_heartbeat_time")


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e15])
def test_a_length_of_time_that_is_none_is_named(seconds: float) -> None:
    with pytest.raises(ValueError, match="lease must be"):
        to_duration(seconds, "lease")

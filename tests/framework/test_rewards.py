"""Rewards: written as release 0.3 writes them, read as any release wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest

from agentlightning import (
    OtelTracer,
    Span,
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from agentlightning.emitter import reward


def span(name: str = "x", **attributes: Any) -> Span:
    return Span.from_attributes(name=name, attributes=attributes)


def test_a_plain_reward_is_an_annotation() -> None:
    core = emit_reward(0.5, propagate=False)
    assert core.name == "agentlightning.annotation"
    assert core.attributes == {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5}
    assert core.status.status_code == "OK"
    assert core.start_time == core.end_time is not None


@pytest.mark.parametrize(("given", "value"), [(1, 1.0), (True, 1.0), (False, 0.0), (Fraction(1, 4), 0.25)])
def test_every_kind_of_number_is_a_reward(given: Any, value: float) -> None:
    attributes = emit_reward(given, propagate=False).attributes
    assert attributes["agentlightning.reward.0.value"] == value
    assert type(attributes["agentlightning.reward.0.value"]) is float


def test_several_dimensions_put_the_primary_one_first() -> None:
    core = emit_reward(
        {"a": 1, "b": True}, primary_key="b", attributes={"k": {"z": 1, "list": [1, 2]}}, propagate=False
    )
    assert core.attributes == {
        "agentlightning.reward.0.name": "b",
        "agentlightning.reward.0.value": 1.0,
        "agentlightning.reward.1.name": "a",
        "agentlightning.reward.1.value": 1.0,
        "k.z": 1,
        "k.list": [1, 2],
    }


def test_nonsense_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a number, not str"):
        emit_reward("1", propagate=False)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reward 'a' must be a number"):
        emit_reward({"a": None}, primary_key="a", propagate=False)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="needs a primary_key"):
        emit_reward({"a": 1}, propagate=False)
    with pytest.raises(ValueError, match="'c' is not among"):
        emit_reward({"a": 1}, primary_key="c", propagate=False)
    with pytest.raises(RuntimeError, match="no tracer is active"):
        emit_reward(1)


async def test_emitted_rewards_are_found_in_the_trace() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        emit_reward(0.25)
        emit_reward({"a": 1, "b": 2}, primary_key="b")
    trace = tracer.get_last_trace()
    assert [get_reward_value(item) for item in trace] == [0.25, 2.0]
    assert find_final_reward(trace) == 2.0
    assert [(reward.name, reward.value) for reward in get_rewards_from_span(trace[1])] == [("b", 2.0), ("a", 1.0)]


@pytest.mark.parametrize(
    ("recorded", "reward"),
    [
        (span("agentlightning.annotation", **{"agentlightning.reward.0.value": 3}), 3.0),
        (span("agentlightning.annotation", **{"agentlightning.reward.0.value": "3"}), None),
        (span("agentlightning.annotation", note="x"), None),
        (span("agentlightning.reward", reward=0.5), 0.5),
        (span("agentlightning.reward", reward=1), 1.0),
        (span("another", reward=0.5), None),
        (span(**{"agentops.task.output": json.dumps({"type": "reward", "value": 2})}), 2.0),
        (span(**{"agentops.entity.output": {"type": "reward", "value": 2.5}}), 2.5),
        (span(**{"agentops.entity.output": json.dumps({"type": "reward", "value": None})}), None),
        (span(**{"agentops.task.output": "not json"}), None),
        (span(**{"agentops.task.output": json.dumps([1])}), None),
    ],
)
def test_rewards_of_all_releases_are_read(recorded: Span, reward: float | None) -> None:
    assert get_reward_value(recorded) == reward
    assert is_reward_span(recorded) == (reward is not None)


def test_the_last_reward_is_the_final_one() -> None:
    first = span("agentlightning.reward", reward=0.1)
    second = span("agentlightning.annotation", **{"agentlightning.reward.0.value": 0.0})
    spans = [first, span(), second, span()]
    assert find_reward_spans(spans) == [first, second]
    assert find_final_reward(spans) == 0.0
    assert find_final_reward([span()]) is None
    assert find_final_reward([]) is None


def test_a_note_that_no_span_can_hold_costs_no_reward() -> None:
    core = emit_reward(1, attributes={"k": {"z": {1, 2}, "missing": None}}, propagate=False)
    assert core.attributes["k.z"] == "[1, 2]"
    assert core.attributes["k.missing"] == "null"
    assert get_reward_value(Span.from_core_fields(core)) == 1.0


async def test_the_reward_decorator_emits_results_and_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="emit_reward"):

        @reward
        def score(value: float | None) -> float | None:
            """Says how good it was."""
            return value

    with pytest.warns(DeprecationWarning, match="emit_reward"):

        @reward
        async def score_async(value: float) -> float:
            return value

    assert score.__doc__ == "Says how good it was."
    tracer = OtelTracer()
    async with tracer.trace_context():
        assert score(0.5) == 0.5
        assert score(None) is None
        assert await score_async(1) == 1
        with pytest.raises(TypeError, match="must be a number, not str"):
            score("good")  # type: ignore[arg-type]
    assert [get_reward_value(span) for span in tracer.get_last_trace()] == [0.5, 1.0]


def test_the_old_module_and_the_decorator_share_a_name() -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
import agentlightning.reward as module
assert module(lambda: None)() is None
from agentlightning.emitter import reward
assert module.reward is reward
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

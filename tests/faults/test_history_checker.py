"""The checker of histories finds what a store may do wrong, and nothing wrong with one that keeps its promises."""

from __future__ import annotations

from typing import Any

import pytest
from history import Call
from history_checker import Stored, violations


def history() -> list[Call]:
    """Two rollouts: one fails at first, and both succeed."""
    return [
        Call("algorithm", "enqueue", {"names": ["a", "b"]}, 0.0, 0.1, None),
        Call("runner1", "claim", {"claim": "1"}, 0.2, 0.3, [["a", "at-1"]]),
        Call("runner1", "spans", {"name": "a", "spans": ["s1"]}, 0.4, 0.5, [1]),
        Call("runner1", "report", {"name": "a", "attempt": "at-1"}, 0.6, 0.7, "FAILED"),
        Call("runner2", "claim", {"claim": "2"}, 0.7, 0.8, [["a", "at-2"], ["b", "at-3"]]),
        Call("runner2", "spans", {"name": "a", "spans": ["s2", "s3"]}, 0.8, 0.9, [2, 3]),
        Call("runner2", "spans", {"name": "b", "spans": ["s4"]}, 0.9, float("inf")),
        Call("runner2", "report", {"name": "a", "attempt": "at-2"}, 1.0, 1.1, "SUCCEEDED"),
        Call("runner2", "report", {"name": "b", "attempt": "at-3"}, 1.0, 1.1, "SUCCEEDED"),
        Call("algorithm", "wait", {}, 1.2, 1.2, {"a": "SUCCEEDED"}),
        Call("algorithm", "wait", {}, 1.2, 1.2, {"b": "SUCCEEDED"}),
        Call("watcher", "watch", {}, 1.3, 1.3, [["a", "PREPARING", "d1"]]),
        Call("watcher", "watch", {}, 1.4, 1.4, [["a", "SUCCEEDED", "d2"], ["b", "SUCCEEDED", "d3"]]),
    ]


def stored(**changes: Any) -> Stored:
    """What a store should hold after that."""
    return Stored(
        **{
            "rollouts": {"a": "SUCCEEDED", "b": "SUCCEEDED"},
            "attempts": {"a": ["at-1", "at-2"], "b": ["at-3"]},
            "spans": {"a": [("at-1", "s1", 1), ("at-2", "s2", 2), ("at-2", "s3", 3)], "b": [("at-3", "s4", 1)]},
            **changes,
        }
    )


def test_a_store_that_keeps_its_promises_has_done_nothing_wrong() -> None:
    assert violations(history(), stored()) == []


def test_a_call_without_an_answer_may_have_been_carried_out_or_not() -> None:
    spans = {**stored().spans, "b": []}
    assert violations(history(), stored(spans=spans)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rollouts": {"b": "SUCCEEDED"}}, "a: its creation was answered, and it is not there"),
        ({"rollouts": {**stored().rollouts, "c": "SUCCEEDED"}}, "c: nobody asked for it"),
        ({"rollouts": {"a": "REQUEUING", "b": "SUCCEEDED"}}, "a: it was left REQUEUING"),
        ({"rollouts": {"a": "FAILED", "b": "SUCCEEDED"}}, "a: it ended SUCCEEDED, and is FAILED"),
        ({"attempts": {"a": ["at-1"], "b": ["at-3"]}}, "a: its attempt at-2 was handed out, and it is not there"),
        ({"attempts": {"a": ["at-1", "at-2", "at-2"], "b": ["at-3"]}}, "a: an attempt is there twice"),
        ({"spans": {"a": [("at-1", "s1", 1), ("at-2", "s2", 2)], "b": []}}, "a: its span s3 was taken, and it is"),
        ({"spans": {**stored().spans, "b": [("at-3", "s4", 1), ("at-3", "s4", 2)]}}, "b: its span s4 is there 2 times"),
        ({"spans": {**stored().spans, "b": [("at-3", "s5", 1)]}}, "b: nobody sent its span s5"),
        (
            {"spans": {**stored().spans, "a": [("at-1", "s1", 4), ("at-2", "s2", 2), ("at-2", "s3", 3)]}},
            "a: its span s1 was given the number 1, and has 4",
        ),
    ],
)
def test_what_is_lost_or_doubled_in_the_store_is_found(changes: dict[str, Any], sentence: str) -> None:
    assert any(found.startswith(sentence) for found in violations(history(), stored(**changes)))


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        (Call("runner1", "claim", {"claim": "9"}, 0.9, 0.95, [["b", "at-3"]]), "b: its attempt at-3 was handed out to"),
        (
            Call("runner1", "claim", {"claim": "9"}, 1.3, 1.4, [["b", "at-3"]]),
            "b: it was handed out after it had ended",
        ),
        (Call("runner1", "spans", {"name": "a", "spans": ["s2"]}, 2.0, 2.1, [2]), "a: the number 2 was given to 2"),
        (Call("runner1", "spans", {"name": "a", "spans": ["s2"]}, 0.1, 0.2, [2]), "a: the number 1 was given after 2"),
        (Call("algorithm", "wait", {}, 1.3, 1.3, {"b": "FAILED"}), "b: it ended FAILED, and is SUCCEEDED"),
        (
            Call("watcher", "watch", {}, 1.5, 1.5, [["a", "SUCCEEDED", "d2"]]),
            "a: watcher was told twice that it ended",
        ),
        (Call("watcher", "watch", {}, 1.5, 1.5, [["a", "REQUEUING", "d9"]]), "a: watcher was told that it ended"),
        (Call("late", "watch", {}, 1.5, 1.5, [["a", "SUCCEEDED", "d2"]]), "b: late was not told that it ended"),
    ],
)
def test_answers_that_contradict_each_other_are_found(further: Call, sentence: str) -> None:
    assert any(found.startswith(sentence) for found in violations([*history(), further], stored()))


def test_a_success_that_was_taken_back_is_found() -> None:
    calls = [call for call in history() if call.kind not in ("wait", "watch")]
    (found,) = violations(calls, stored(rollouts={"a": "FAILED", "b": "SUCCEEDED"}))
    assert found == "a: the success of its latest attempt was taken, and it is FAILED"

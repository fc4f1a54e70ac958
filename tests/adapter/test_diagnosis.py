"""What is said about a trace that nothing can be learned from."""

from __future__ import annotations

from typing import Any

import pytest
from adapter_spans import agent, captured, chat, reward, root, span

from agentlightning import Event, TraceStatus
from agentlightning.adapter.diagnosis import diagnose, diagnose_calls
from agentlightning.adapter.dialects import read_model_call
from agentlightning.adapter.model_calls import why_incomplete

BODY = '{"id": "r", "choices": [{"message": {"role": "assistant", "content": "x"}}]}'
KIND = {"openinference.span.kind": "LLM"}


def reason(name: str = "x", **fields: Any) -> str | None:
    made = span(name, 1, 2, **fields)
    return why_incomplete(read_model_call(made), made)


def test_a_trace_to_learn_from_needs_no_words() -> None:
    assert diagnose([root(), chat(1, 1, 2), reward(1.0, 3)]) == []
    assert diagnose(captured("openinference_tools")) == []


def test_a_missing_reward_is_said() -> None:
    assert diagnose([root(), chat(1, 1, 2)]) == [
        "no span carries a reward: the agent neither returned one nor emitted one"
    ]


def test_a_trace_without_spans_says_so_alone() -> None:
    (line,) = diagnose([])
    assert line.startswith("there are no spans")


def test_reasons_are_summed_up() -> None:
    lines = diagnose([root(), chat(1, 1, 2), span("openai.chat.completion", 3, 4), reward(1.0, 5)])
    assert [line.split(":")[0] for line in lines] == ["1 of 2 model calls"]


def test_a_trace_without_model_calls_names_its_spans() -> None:
    many = [span(f"tool {number}", number, number) for number in range(12)]
    (line,) = diagnose_calls([*many, span("tool 3", 20, 21)])
    assert "none of 13 spans is a model call (tool 3 x2, tool 0 x1," in line
    assert "... 4 more" in line


def test_filters_that_find_nothing_are_named_with_what_there_is() -> None:
    spans = [root(), agent("alice", 0, 9), chat(1, 1, 2, "alice"), chat(2, 20, 21)]
    assert diagnose_calls(spans, agent_match="bob") == [
        "no agent around a model call is named like agent_match='bob'; the calls are of: alice x1, * x1"
    ]
    assert diagnose_calls(spans, llm_call_match="my_call") == [
        "no model call is named like llm_call_match='my_call'; the calls are named: openai.chat.completion x2"
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"attributes": {"prompt_token_ids": [1], "response_token_ids": [2]}}, None),
        (
            {"attributes": {**KIND, "output.value": BODY}},
            "the response that came from the endpoint carries no token ids:",
        ),
        (
            {"attributes": {**KIND, "output.value": BODY, "prompt_token_ids": [1]}},
            "the response that came from the endpoint carries no token ids of the response:",
        ),
        (
            {"attributes": {**KIND, "response_token_ids": [1]}},
            "the span carries no token ids of the prompt: send model calls through the LLM proxy",
        ),
        (
            {"attributes": {**KIND, "input.value": '{"messages": [], "stream": true}'}},
            "the response was streamed, and its record carries no token ids",
        ),
        ({"attributes": {"prompt_token_ids": "?"}}, "what prompt_token_ids holds is no list of token ids"),
        (
            {"status": TraceStatus(status_code="ERROR", description="429")},
            "the model call failed: 429",
        ),
        (
            {
                "status": TraceStatus(status_code="ERROR"),
                "events": [
                    Event(name="exception", attributes={"exception.type": "TimeoutError", "exception.message": "late"})
                ],
            },
            "the model call failed: TimeoutError: late",
        ),
        ({"status": TraceStatus(status_code="ERROR")}, "the model call failed: its span has the status ERROR"),
        ({"name": "openai.chat.completion"}, "the span carries no token ids: send model calls through"),
    ],
)
def test_each_reason_is_told_apart(fields: dict[str, Any], expected: str | None) -> None:
    found = reason(**fields)
    assert (found is None) == (expected is None)
    assert found is None or found.startswith(expected or "")

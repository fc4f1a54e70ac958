"""Model calls as conversations of OpenAI's chat API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapter_spans import captured, chat, root, span

from agentlightning import Span, TraceStatus
from agentlightning.adapter import TraceToMessages

SYSTEM = {"role": "system", "content": "Answer in one sentence."}
QUESTION = {"role": "user", "content": "What is a rollout?"}
ANSWER = {"role": "assistant", "content": "echo: What is a rollout?"}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def conversations(*spans: Span) -> list[list[dict[str, Any]]]:
    return [each["messages"] for each in TraceToMessages().adapt(spans)]


def numbered(*prompt: dict[str, Any], **more: Any) -> Span:
    """A call with these messages, as AgentOps records it."""
    attributes = {
        f"gen_ai.prompt.{n}.{key}": value for n, message in enumerate(prompt) for key, value in message.items()
    }
    return span("openai.chat.completion", 1, 2, attributes={**attributes, "gen_ai.completion.0.content": "a", **more})


@pytest.mark.parametrize("dialect", ["openinference", "otel_genai", "agentops"])
@pytest.mark.parametrize("kind", ["chat", "stream"])
def test_calls_are_conversations_in_every_dialect(dialect: str, kind: str) -> None:
    first = TraceToMessages().adapt(captured(f"{dialect}_{kind}"))[0]
    assert first == {"messages": [SYSTEM, QUESTION, ANSWER], "tools": None}


def test_a_call_that_two_instrumentations_recorded_is_one_conversation() -> None:
    assert conversations(*captured("openinference_langchain")) == [[QUESTION, ANSWER]]


@pytest.mark.parametrize("dialect", ["openinference", "otel_genai"])
def test_tools_and_their_answers_are_part_of_conversations(dialect: str) -> None:
    asking, answering = TraceToMessages().adapt(captured(f"{dialect}_tools"))
    city = {"role": "user", "content": "Paris"}
    wish = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    result = {"role": "tool", "content": "sunny, 21 degrees", "tool_call_id": "call_1"}
    assert asking["messages"] == [SYSTEM, city, wish]
    assert answering["messages"] == [
        *(SYSTEM, city, wish, result),
        {"role": "assistant", "content": "tool said: sunny, 21 degrees"},
    ]
    if dialect == "openinference":
        assert asking["tools"] == answering["tools"] == [WEATHER]


def test_tool_calls_are_found_among_the_spans_in_the_call() -> None:
    spans = captured("agentops_tools")
    asking = TraceToMessages().adapt(spans)[0]
    assert asking["messages"][-1] == {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    assert asking["tools"] == [WEATHER]
    assert TraceToMessages().get_tool_calls(spans[1], spans) == [TOOL_CALL]
    assert TraceToMessages().get_tool_calls(spans[2], spans) == []


def test_a_tool_that_was_asked_for_and_run_inside_the_call_is_asked_for_once() -> None:
    names = {"gen_ai.tool.name": "f", "gen_ai.tool.call.id": "t1", "gen_ai.tool.call.arguments": '{"x": 1}'}
    spans = [
        chat(1, 1, 9),
        span("execute_tool f", 2, 3, "c1", attributes=names),
        span("again", 4, 5, "c1", attributes=names),
    ]
    spans.append(span("g", 6, 7, "c1", attributes={"tool.name": "g"}))
    ((_, response),) = conversations(*spans)
    assert [call["function"] for call in response["tool_calls"]] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert response["content"] == "a1"


def test_conversations_come_in_the_order_of_the_spans() -> None:
    assert [messages[0]["content"] for messages in conversations(root(), chat(2, 3, 4), chat(1, 1, 2))] == ["q2", "q1"]


def test_each_choice_is_a_conversation() -> None:
    call = chat(1, 1, 2, **{"gen_ai.completion.1.role": "assistant", "gen_ai.completion.1.content": "b1"})
    assert [messages[-1]["content"] for messages in conversations(call)] == ["a1", "b1"]


def test_contents_in_several_parts_are_kept() -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    ((message, _),) = conversations(chat(1, 1, 2, **{"gen_ai.prompt.0.content": json.dumps(parts)}))
    assert message == {"role": "user", "content": parts}


def test_messages_have_what_the_chat_api_knows_and_nothing_else() -> None:
    answer = [
        {
            "role": "model",
            "parts": [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "ok"}],
            "finish_reason": "stop",
        }
    ]
    call = span(
        "chat m", 1, 2, attributes={"gen_ai.operation.name": "chat", "gen_ai.output.messages": json.dumps(answer)}
    )
    assert conversations(call) == [[{"role": "assistant", "content": "ok"}]]


def test_roles_that_were_not_recorded_follow_from_the_place() -> None:
    assert conversations(numbered({"content": "q"})) == [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    ]


def test_a_failed_call_has_its_prompt_only() -> None:
    failed = numbered({"role": "user", "content": "q"})
    del failed.attributes["gen_ai.completion.0.content"]
    failed.status = TraceStatus(status_code="ERROR")
    assert conversations(failed) == [[{"role": "user", "content": "q"}]]


def test_calls_without_messages_have_no_conversation() -> None:
    assert conversations(root(), span("openai.chat.completion", 1, 2), span("tool", 3, 4)) == []
    assert conversations() == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"role": "oracle", "content": "x"}, "a message has the role 'oracle', which the chat API does not know"),
        ({"role": "tool", "content": "42"}, "a message of a tool does not say which tool call it answers"),
    ],
)
def test_what_the_chat_api_would_refuse_is_left_out_with_a_warning(
    message: dict[str, Any], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(conversations(numbered(message), chat(1, 3, 4))) == 1
    assert "rollout ro-1, attempt at-1: span 'openai.chat.completion'" in caplog.text
    assert f"is left out: {fault}" in caplog.text


def test_messages_that_the_instrumentation_left_out_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert len(conversations(*captured("agentops_chat"))) == 2
    assert len(caplog.records) == 1
    assert "(0000000000000003) lacks messages: 1" in caplog.text


def test_texts_and_nothing_are_contents_that_the_chat_api_takes() -> None:
    ((empty, number, _),) = conversations(numbered({"role": "user"}, {"role": "user", "content": 7}))
    assert empty == {"role": "user", "content": ""}
    assert number == {"role": "user", "content": "7"}

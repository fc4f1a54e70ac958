"""What is read of a model call, in each dialect in which instrumentations write it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapter_spans import chat, span
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning import Event, Span
from agentlightning.adapter.dialects import is_model_call, read_model_call
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.adapter.model_calls import ModelCall, merged
from agentlightning.adapter.triplet import LlmProxyTraceToTriplet, TracerTraceToTriplet, diagnose

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"q": 1}'}}
TOOL = {"type": "function", "function": {"name": "lookup", "description": "d", "parameters": {"type": "object"}}}

LLM_KIND = {"openinference.span.kind": "LLM"}
CHAT_OPERATION = {"gen_ai.operation.name": "chat"}
CHOICES = [
    {
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "it's"},
        "token_ids": [3, 4],
        "logprobs": {"content": [{"token": "it's", "logprob": -0.5}]},
    },
    {"message": {"role": "assistant", "content": "other"}, "token_ids": [9]},
]


def read(name: str = "x", events: list[Event] | None = None, **attributes: Any) -> ModelCall:
    made = span(name, events=events, attributes=attributes)
    assert is_model_call(made)
    return read_model_call(made)


def event(name: str, **attributes: Any) -> Event:
    return Event(name=name, attributes=attributes)


class TestAgentLightning:
    def test_token_ids_are_attributes_of_any_span(self) -> None:
        call = read(
            prompt_token_ids=[1, 2], response_token_ids=(3,), response_logprobs=[-0.5], **{"gen_ai.response.id": "r"}
        )
        assert (call.prompt_token_ids, call.response_token_ids) == ([1, 2], [3])
        assert call.logprobs == [{"logprob": -0.5}]
        assert call.response_id == "r"
        assert call.is_complete

    def test_the_typed_record_names_the_model(self) -> None:
        assert read(**{"agentlightning.generation.model": "m"}).model == "m"

    def test_log_probabilities_of_release_03_are_read(self) -> None:
        tokens = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]
        call = read(response_token_ids=[1, 2], **{"logprobs.content": json.dumps(tokens)})
        assert call.logprobs == tokens

    @pytest.mark.parametrize("written", ["[1, 2]", "(1, 2)", "[[1, 2], [9]]", [1, 2], (1, 2)])
    def test_token_ids_are_read_in_every_form(self, written: Any) -> None:
        assert read(prompt_token_ids=written).prompt_token_ids == [1, 2]

    @pytest.mark.parametrize("written", ["nonsense", "[1, 2", ["a"], [1.5], True, "[" * 10_000])
    def test_what_is_no_list_of_token_ids_is_named(self, written: Any) -> None:
        call = read(prompt_token_ids=written)
        assert call.prompt_token_ids == []
        assert call.unreadable == ("prompt_token_ids",)


class TestOpenInference:
    def test_the_body_of_the_response_gives_token_ids_and_log_probabilities(self) -> None:
        logprobs = {"content": [{"token": "Hi", "logprob": -0.5}]}
        body = {
            "id": "r",
            "model": "m",
            "prompt_token_ids": [1, 2],
            "choices": [
                {
                    "message": {"role": "assistant", "content": "Hi"},
                    "token_ids": [3],
                    "logprobs": logprobs,
                    "finish_reason": "stop",
                }
            ],
        }
        call = read("ChatCompletion", **LLM_KIND, **{"output.value": json.dumps(body)})
        assert (call.prompt_token_ids, call.response_token_ids) == ([1, 2], [3])
        assert call.logprobs == logprobs["content"]
        assert (call.response_id, call.model, call.finish_reason) == ("r", "m", "stop")
        assert call.whole_response

    def test_a_request_of_the_chat_api_gives_the_messages_as_they_were_sent(self) -> None:
        audio = {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}
        messages = [{"role": "user", "content": [IMAGE, audio]}, {"role": "assistant", "tool_calls": [TOOL_CALL]}]
        body = json.dumps({"messages": messages, "stream": True})
        call = read(**LLM_KIND, **{"input.value": body, "llm.input_messages.0.message.content": "less"})
        assert call.messages == messages
        assert call.streamed

    def test_requests_of_other_apis_are_read_from_the_attributes(self) -> None:
        anthropic = {"system": "Be kind", "messages": [{"role": "user", "content": "hi"}]}
        attributes = {
            "input.value": json.dumps(anthropic),
            "llm.input_messages.0.message.role": "system",
            "llm.input_messages.0.message.content": "Be kind",
            "llm.input_messages.1.message.role": "user",
            "llm.input_messages.1.message.contents.0.message_content.type": "text",
            "llm.input_messages.1.message.contents.0.message_content.text": "hi",
            "llm.input_messages.1.message.contents.1.message_content.type": "image",
            "llm.input_messages.1.message.contents.1.message_content.image.image.url": "data:image/png;base64,AA",
            "llm.input_messages.2.message.role": "assistant",
            "llm.input_messages.2.message.tool_calls.0.tool_call.id": "call_1",
            "llm.input_messages.2.message.tool_calls.0.tool_call.function.name": "lookup",
            "llm.input_messages.2.message.tool_calls.0.tool_call.function.arguments": '{"q": 1}',
            "llm.input_messages.3.message.role": "tool",
            "llm.input_messages.3.message.tool_call_id": "call_1",
            "llm.input_messages.3.message.content": "42",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "done",
            "llm.finish_reason": "end_turn",
            "llm.model_name": "claude",
            "llm.invocation_parameters": '{"temperature": 0.5}',
            "llm.tools.0.tool.json_schema": json.dumps(TOOL),
        }
        call = read(**LLM_KIND, **attributes)
        assert call.messages == [
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, IMAGE]},
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        ]
        assert call.choices == [{"role": "assistant", "content": "done", "finish_reason": "end_turn"}]
        assert call.request == {"model": "claude", "temperature": 0.5}
        assert call.tools == [TOOL]

    def test_completions_have_text_and_parallel_log_probabilities(self) -> None:
        choice = {"text": "x y", "token_ids": [3, 4], "prompt_token_ids": [1]}
        choice["logprobs"] = {"tokens": ["x", " y"], "token_logprobs": [-0.5, -0.25]}
        call = read(**LLM_KIND, **{"output.value": json.dumps({"choices": [choice]})})
        assert call.choices == [{"role": "assistant", "content": "x y"}]
        assert (call.prompt_token_ids, call.response_token_ids) == ([1], [3, 4])
        assert call.logprobs == [{"token": "x", "logprob": -0.5}, {"token": " y", "logprob": -0.25}]

    def test_other_kinds_are_no_model_calls(self) -> None:
        for kind in ("CHAIN", "EMBEDDING", "AGENT", "TOOL"):
            assert not is_model_call(span("x", attributes={"openinference.span.kind": kind}))


class TestOpenTelemetryGenAI:
    @staticmethod
    def written(messages: Any, as_json: bool) -> Any:
        return json.dumps(messages) if as_json else messages

    @pytest.mark.parametrize("as_json", [True, False], ids=["json", "structured"])
    def test_messages_are_made_of_parts(self, as_json: bool) -> None:
        prompt = [
            {
                "role": "user",
                "parts": [
                    {"type": "text", "content": "look"},
                    {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AA"},
                    {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
                    {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "BB"},
                    {"type": "file", "modality": "image", "file_id": "f"},
                    {"type": "hologram", "beam": 1},
                ],
            },
            {
                "role": "assistant",
                "parts": [
                    {"type": "reasoning", "content": "hm"},
                    {"type": "tool_call", "id": "call_1", "name": "lookup", "arguments": {"q": 1}},
                ],
            },
            {
                "role": "tool",
                "parts": [
                    {"type": "tool_call_response", "id": "call_1", "response": "42"},
                    {"type": "tool_call_response", "id": "call_2", "result": {"n": 1}},
                ],
            },
        ]
        answer = [{"role": "assistant", "parts": [{"type": "text", "content": "ok"}], "finish_reason": "tool_call"}]
        call = read(
            "chat m",
            **CHAT_OPERATION,
            **{
                "gen_ai.system_instructions": self.written([{"type": "text", "content": "S"}], as_json),
                "gen_ai.input.messages": self.written(prompt, as_json),
                "gen_ai.output.messages": self.written(answer, as_json),
                "gen_ai.tool.definitions": self.written([{"type": "function", **TOOL["function"]}], as_json),
                "gen_ai.request.model": "m",
                "gen_ai.request.temperature": 0.5,
                "gen_ai.response.id": "r",
            },
        )
        assert call.messages == [
            {"role": "system", "content": "S"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    IMAGE,
                    {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                    {"type": "input_audio", "input_audio": {"data": "BB", "format": "wav"}},
                    {"type": "file", "file": {"file_id": "f"}},
                    {"type": "hologram", "beam": 1},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL], "reasoning_content": "hm"},
            {"role": "tool", "content": "42", "tool_call_id": "call_1"},
            {"role": "tool", "content": '{"n": 1}', "tool_call_id": "call_2"},
        ]
        assert call.choices == [{"role": "assistant", "content": "ok", "finish_reason": "tool_calls"}]
        assert call.tools == [TOOL]
        assert call.request == {"model": "m", "temperature": 0.5}
        assert (call.response_id, call.finish_reason) == ("r", "tool_calls")

    def test_messages_as_details_of_an_event(self) -> None:
        answer = [{"role": "assistant", "parts": [{"type": "text", "content": "ok"}]}]
        details = event("gen_ai.client.inference.operation.details", **{"gen_ai.output.messages": json.dumps(answer)})
        call = read(events=[details], **CHAT_OPERATION, **{"gen_ai.response.finish_reasons": ["stop"]})
        assert call.choices == [{"role": "assistant", "content": "ok", "finish_reason": "stop"}]

    def test_messages_as_one_event_each(self) -> None:
        events = [
            event("gen_ai.system.message", content="S"),
            event("gen_ai.user.message", **{"gen_ai.event.content": json.dumps({"content": "hi"})}),
            event("gen_ai.assistant.message", tool_calls=json.dumps([TOOL_CALL])),
            event("gen_ai.tool.message", content="42", id="call_1"),
            event("gen_ai.choice", index=0, finish_reason="stop", message=json.dumps({"content": "ok"})),
        ]
        call = read(events=events, **CHAT_OPERATION)
        assert call.messages == [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        ]
        assert call.choices == [{"role": "assistant", "content": "ok", "finish_reason": "stop"}]

    def test_messages_as_one_event_for_all(self) -> None:
        events = [
            event("gen_ai.content.prompt", **{"gen_ai.prompt": json.dumps([{"role": "user", "content": "hi"}])}),
            event("gen_ai.content.completion", **{"gen_ai.completion": "ok"}),
        ]
        call = read(events=events, **CHAT_OPERATION)
        assert call.messages == [{"role": "user", "content": "hi"}]
        assert call.choices == [{"role": "assistant", "content": "ok"}]

    def test_embeddings_are_no_model_calls(self) -> None:
        assert not is_model_call(span("embeddings m", attributes={"gen_ai.operation.name": "embeddings"}))


class TestNumberedAttributes:
    def test_messages_tools_and_parameters_are_numbered(self) -> None:
        call = read(
            "openai.chat.completion",
            **{
                "gen_ai.request.model": "m",
                "gen_ai.request.streaming": True,
                "gen_ai.request.functions.0.name": "lookup",
                "gen_ai.request.functions.0.description": "d",
                "gen_ai.request.functions.0.parameters": '{"type": "object"}',
                "gen_ai.prompt.0.role": "user",
                "gen_ai.prompt.0.content": json.dumps([{"type": "text", "text": "look"}, IMAGE]),
                "gen_ai.prompt.1.role": "assistant",
                "gen_ai.prompt.1.content": None,
                "gen_ai.prompt.1.tool_calls.0.id": "call_1",
                "gen_ai.prompt.1.tool_calls.0.name": "lookup",
                "gen_ai.prompt.1.tool_calls.0.arguments": '{"q": 1}',
                "gen_ai.prompt.2.role": "tool",
                "gen_ai.prompt.2.tool_call_id": "call_1",
                "gen_ai.prompt.2.content": "42",
                "gen_ai.completion.0.role": "assistant",
                "gen_ai.completion.0.content": "ok",
                "gen_ai.completion.0.finish_reason": "stop",
                "gen_ai.response.id": "r",
            },
        )
        assert call.messages == [
            {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]},
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        ]
        assert call.choices == [{"role": "assistant", "content": "ok", "finish_reason": "stop"}]
        assert call.tools == [TOOL]
        assert call.response_id == "r"
        assert call.streamed
        assert call.unrecorded_messages == 0

    def test_messages_are_in_order_of_their_numbers_and_gaps_are_counted(self) -> None:
        attributes = {f"gen_ai.prompt.{number}.content": str(number) for number in (10, 2, 0, 1)}
        call = read(**attributes)
        assert [message["content"] for message in call.messages] == ["0", "1", "2", "10"]
        assert call.unrecorded_messages == 7

    @pytest.mark.parametrize("written", ['[{"role": "human", "content": "hi"}]', "hi"])
    def test_a_prompt_in_one_attribute_is_read(self, written: str) -> None:
        call = read("chat_model.llm", **{"agentops.span.kind": "llm", "gen_ai.prompt": written})
        assert call.messages == [{"role": "user", "content": "hi"}]

    @pytest.mark.parametrize(
        "attributes",
        [
            {"agentops.span.kind": "AgentOpsSpanKindValues.LLM"},
            {"llm.request.type": "completion"},
            {"gen_ai.request.type": "chat"},
            {"gen_ai.completion.0.content": "x"},
        ],
    )
    def test_model_calls_are_known_by_any_of_their_marks(self, attributes: dict[str, Any]) -> None:
        assert is_model_call(span("x", attributes=attributes))

    def test_other_spans_are_no_model_calls(self) -> None:
        for attributes in ({"agentops.span.kind": "tool"}, {"gen_ai.usage.prompt_tokens": 3}, {"gen_ai.prompts": "x"}):
            assert not is_model_call(span("x", attributes=attributes))


class TestLiteLLM:
    @pytest.mark.parametrize("spelled", [str, json.dumps])
    @pytest.mark.parametrize("provider", ["hosted_vllm", "openai"])
    def test_bodies_are_literals_or_json_of_any_provider(self, spelled: Any, provider: str) -> None:
        body = {
            "id": "r",
            "model": "m",
            "prompt_token_ids": spelled([1, 2]),
            "choices": spelled(CHOICES),
            "messages": spelled([{"role": "user", "content": "q"}]),
            "tools": spelled([TOOL]),
        }
        call = read("raw_gen_ai_request", **{f"llm.{provider}.{key}": value for key, value in body.items()})
        assert (call.prompt_token_ids, call.response_token_ids) == ([1, 2], [3, 4])
        assert call.logprobs == [{"token": "it's", "logprob": -0.5}]
        assert [choice["content"] for choice in call.choices] == ["it's", "other"]
        assert call.messages == [{"role": "user", "content": "q"}]
        assert call.tools == [TOOL]
        assert (call.response_id, call.model) == ("r", "m")

    def test_token_ids_are_found_where_litellm_may_put_them(self) -> None:
        prompt = {"llm.hosted_vllm.prompt_token_ids": "[1]"}
        specific = str([{"provider_specific_fields": {"token_ids": [5]}}])
        assert read(**prompt, **{"llm.hosted_vllm.choices": specific}).response_token_ids == [5]
        old = {"llm.hosted_vllm.choices": "junk", "llm.hosted_vllm.response_token_ids": "[[3, 4]]"}
        assert read(**prompt, **old).response_token_ids == [3, 4]


class TestMerging:
    def test_what_one_record_lacks_the_other_gives(self) -> None:
        first = ModelCall(dialects=("A",), prompt_token_ids=[1], response={"id": "r"})
        second = ModelCall(dialects=("B", "A"), prompt_token_ids=[2], response_token_ids=[3], response={"model": "m"})
        both = merged(first, second)
        assert (both.prompt_token_ids, both.response_token_ids) == ([1], [3])
        assert both.response == {"id": "r", "model": "m"}
        assert both.dialects == ("A", "B")

    def test_log_probabilities_of_other_tokens_are_not_taken(self) -> None:
        first = ModelCall(response_token_ids=[1, 2])
        assert merged(first, ModelCall(logprobs=[{"logprob": -1.0}])).logprobs == []
        assert merged(first, ModelCall(logprobs=[{"logprob": -1.0}] * 2)).logprobs == [{"logprob": -1.0}] * 2

    def test_a_span_that_speaks_several_dialects_is_read_in_all(self) -> None:
        made = chat(1, 1, 2, **{"gen_ai.operation.name": "chat", "openinference.span.kind": "LLM"})
        call = read_model_call(made)
        assert call.dialects == ("Agent Lightning", "OpenInference", "OpenTelemetry GenAI", "AgentOps and Traceloop")
        assert call.is_complete
        assert call.messages == [{"role": "user", "content": "q1"}]


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_KEYS = st.sampled_from(
    ["role", "content", "parts", "type", "message", "function", "id", "name", "choices", "0", "1", "token_ids", "text"]
)
_NESTED = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=8
)
_NAMES = st.sampled_from(
    [
        *("prompt_token_ids", "response_token_ids", "response_logprobs", "logprobs.content"),
        *("llm.openai.choices", "llm.openai.prompt_token_ids", "llm.openai.messages", "llm.openai.tools"),
        *("input.value", "output.value", "llm.invocation_parameters", "llm.tools.0.tool.json_schema"),
        *("llm.input_messages.0.message", "llm.input_messages.0.message.contents.0.message_content.type"),
        *("llm.output_messages.0.message.tool_calls.0.tool_call", "llm.output_messages", "llm.tools"),
        *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions", "gen_ai.system_instructions"),
        *("gen_ai.prompt", "gen_ai.prompt.0.content", "gen_ai.prompt.0.tool_calls", "gen_ai.completion.0.role"),
        *("gen_ai.request.functions", "gen_ai.response.id", "gen_ai.response", "gen_ai.response.finish_reasons"),
        *("tool.name", "tool.parameters", "agent.name", "agentops.span.kind"),
    ]
)
_VALUES = _NESTED | _NESTED.map(json.dumps) | _NESTED.map(repr)


@given(st.dictionaries(_NAMES, _VALUES, max_size=5), st.dictionaries(_NAMES, _VALUES, max_size=3))
@settings(max_examples=300, deadline=None)
def test_nothing_that_spans_may_hold_stops_the_adapters(attributes: dict[str, Any], of_event: dict[str, Any]) -> None:
    marks = {"openinference.span.kind": "LLM", "gen_ai.operation.name": "chat"}
    names = ("gen_ai.choice", "gen_ai.user.message", "gen_ai.content.prompt")
    spans: list[Span] = [
        span("raw_gen_ai_request", 1, 2, None, events=[Event(name=name, attributes=of_event) for name in names]),
        span("tool", 1, 2, None, attributes=attributes),
    ]
    spans[0].attributes = attributes | marks
    TracerTraceToTriplet().adapt(spans)
    LlmProxyTraceToTriplet().adapt(spans)
    TraceToMessages().adapt(spans)
    diagnose(spans)

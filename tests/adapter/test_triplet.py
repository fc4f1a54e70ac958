"""The triplets of what a tracer recorded."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from adapter_spans import agent, captured, chat, reward, root, span
from openai_server import OpenAIServer, token_ids_of, tokens_of

from agentlightning import InMemoryLightningStore, OtelTracer, Triplet, emit_reward
from agentlightning.adapter import Adapter, OtelTraceAdapter, TraceAdapter, TracerTraceToTriplet, TraceToTripletBase
from agentlightning.adapter.triplet import RewardMatchPolicy

QUESTION = "What is a rollout?"
PROMPT = f"<system> Answer in one sentence.\n<user> {QUESTION}\n"
ANSWER = f"echo: {QUESTION}"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_model_call_is_a_triplet_as_release_03_made_it() -> None:
    assert TracerTraceToTriplet().adapt([root(), agent("alice", 0, 50), chat(1, 1, 2, "alice"), reward(0.5, 3)]) == [
        Triplet(
            prompt={
                "token_ids": [1, 2, 1],
                "raw_content": [{"role": "user", "content": "q1"}],
                "image_urls": [],
            },
            response={
                "token_ids": [3, 1],
                "raw_content": [{"role": "assistant", "content": "a1", "finish_reason": "stop"}],
            },
            reward=0.5,
            metadata={
                "request": {"model": "m"},
                "response": {"id": "c1", "model": "m"},
                "response_id": "c1",
                "agent_name": "alice",
            },
        )
    ]


def test_log_probabilities_and_images_are_part_of_it() -> None:
    image = '[{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]'
    call = chat(1, 1, 2, response_logprobs=[-0.5, -0.25], **{"gen_ai.prompt.0.content": image})
    (triplet,) = TracerTraceToTriplet().adapt([call])
    assert [token["logprob"] for token in triplet.response["logprobs"]] == [-0.5, -0.25]
    assert triplet.prompt["image_urls"] == ["https://x/y.png"]


def test_options_choose_the_calls() -> None:
    spans = [root(), agent("alice", 0, 50), chat(1, 1, 2, "alice"), chat(2, 60, 70), span("my.call", 80, 81)]
    assert [each.metadata["response_id"] for each in TracerTraceToTriplet(agent_match="ali")(spans)] == ["c1"]
    assert len(TracerTraceToTriplet(llm_call_match=r"^my\.")(spans)) == 1
    assert TracerTraceToTriplet(llm_call_match=r"^my\.", _skip_empty_token_spans=True)(spans) == []
    assert len(TracerTraceToTriplet()(spans)) == 2


def test_repairing_the_hierarchy_finds_the_agent_of_a_lost_call() -> None:
    spans = [root(), agent("alice", 0, 50), chat(1, 1, 2), reward(0.5, 60)]
    assert TracerTraceToTriplet()(spans)[0].metadata["agent_name"] == "alice"
    assert TracerTraceToTriplet(repair_hierarchy=False)(spans)[0].metadata["agent_name"] == "*"


def test_policies_match_rewards() -> None:
    spans = [root(), agent("alice", 0, 50), chat(1, 1, 2, "alice"), chat(2, 60, 70), reward(1.0, 40, "alice")]
    spans.append(reward(0.5, 80))
    by_sibling = TracerTraceToTriplet(reward_match=RewardMatchPolicy.FIRST_SIBLING).adapt(spans)
    assert [triplet.reward for triplet in by_sibling] == [1.0, 0.5]


def test_nonsense_is_refused_when_the_adapter_is_made() -> None:
    with pytest.raises(ValueError, match=r"llm_call_match='\(' is no regular expression"):
        TracerTraceToTriplet(llm_call_match="(")
    with pytest.raises(ValueError, match=r"agent_match='\['"):
        TracerTraceToTriplet(agent_match="[")
    with pytest.raises(ValueError, match="best_guess"):
        TracerTraceToTriplet(reward_match="best_guess")  # type: ignore[arg-type]


def test_a_complete_trace_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    TracerTraceToTriplet().adapt([root(), chat(1, 1, 2), reward(1.0, 3)])
    assert warnings_of(caplog) == []


def test_an_incomplete_trace_gives_one_warning_and_each_triplet_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    whole = '{"choices": [{"message": {"role": "assistant", "content": "x"}}]}'
    asked = {"openinference.span.kind": "LLM", "output.value": whole}
    spans = [
        chat(1, 1, 2),
        span("ChatCompletion", 3, 4, attributes=asked),
        span("ChatCompletion", 5, 6, attributes=asked),
    ]
    spans.append(span("openai.chat.completion", 7, 8, attributes={"gen_ai.request.streaming": True}))
    triplets = TracerTraceToTriplet().adapt(spans)
    assert "diagnosis" not in triplets[0].metadata
    assert "was not asked for them, or cannot give them" in triplets[1].metadata["diagnosis"]
    assert "streamed" in triplets[3].metadata["diagnosis"]
    (warning,) = warnings_of(caplog)
    assert warning.startswith(
        "rollout ro-1, attempt at-1: triplets without token ids: 2 of 4 model calls: the response"
    )
    assert "; 1 of 4 model calls: the response was streamed" in warning


def test_a_trace_without_model_calls_says_what_it_has_and_what_was_looked_for(caplog: pytest.LogCaptureFixture) -> None:
    assert TracerTraceToTriplet().adapt([root(), span("tool", 1, 2), span("tool", 3, 4)]) == []
    (warning,) = warnings_of(caplog)
    assert "none of 3 spans is a model call (tool x2, root x1)" in warning
    assert "OpenInference, OpenTelemetry GenAI, AgentOps and Traceloop" in warning


def test_an_attempt_without_spans_has_no_triplets(caplog: pytest.LogCaptureFixture) -> None:
    assert TracerTraceToTriplet().adapt([]) == []
    assert "there are no spans" in warnings_of(caplog)[0]


def test_calls_left_out_as_a_judges_are_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    judge = span("judge", 0, 9, None, id="judge", attributes={"agentlightning.reward.0.value": 1.0})
    assert TracerTraceToTriplet().adapt([judge, chat(1, 1, 2, "judge")]) == []
    assert "all model calls are inside spans that carry a reward" in warnings_of(caplog)[0]


@pytest.mark.parametrize(
    "name",
    ["openinference_chat", "openinference_stream", "openinference_langchain", "agentops_chat", "agentops_stream"],
)
def test_what_the_tracers_of_this_library_record_has_the_exact_tokens(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    triplets = TracerTraceToTriplet().adapt(captured(name))
    assert len(triplets) == (2 if name.endswith("_chat") else 1)
    assert triplets[0].response["token_ids"] == token_ids_of(ANSWER)
    assert triplets[0].response["raw_content"][0]["content"] == ANSWER
    assert len(triplets[0].response["logprobs"]) == len(tokens_of(ANSWER))
    assert triplets[0].metadata["agent_name"] == "captured"
    assert [triplet.reward for triplet in triplets] == [None] * (len(triplets) - 1) + [0.5]
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("name", ["openinference_chat", "openinference_stream"])
def test_the_body_that_openinference_records_is_enough(name: str) -> None:
    spans = captured(name)
    for each in spans:
        for attribute in ("prompt_token_ids", "response_token_ids", "response_logprobs"):
            each.attributes.pop(attribute, None)
    triplet = TracerTraceToTriplet().adapt(spans)[0]
    assert triplet.response["token_ids"] == token_ids_of(ANSWER)
    assert [token["token"] for token in triplet.response["logprobs"]] == tokens_of(ANSWER)


@pytest.mark.parametrize("name", ["otel_genai_chat", "otel_genai_stream", "otel_genai_tools"])
def test_dialects_without_token_ids_give_the_texts_and_a_diagnosis(name: str, caplog: pytest.LogCaptureFixture) -> None:
    triplets = TracerTraceToTriplet().adapt(captured(name))
    assert len(triplets) == (1 if name.endswith("stream") else 2)
    assert triplets[0].prompt["raw_content"][0] == {"role": "system", "content": "Answer in one sentence."}
    assert triplets[0].response["raw_content"][0]["role"] == "assistant"
    assert triplets[0].metadata["response_id"] == "chatcmpl-1"
    assert triplets[-1].reward == 0.5
    assert all("no token ids" in triplet.metadata["diagnosis"] for triplet in triplets)
    assert len(warnings_of(caplog)) == 1


async def test_calls_of_a_real_client_through_a_real_store_come_out_as_triplets() -> None:
    from openai import AsyncOpenAI

    store = InMemoryLightningStore()
    rollout = await store.start_rollout(QUESTION)
    attempt_id = rollout.attempt.attempt_id
    tracer = OtelTracer()
    tracer.init_worker(0, store)
    with OpenAIServer(together=2) as server:
        async with (
            AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
            tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=attempt_id),
        ):
            await asyncio.gather(*(ask(client, question) for question in (QUESTION, "And a span?")))
            emit_reward(1.0)
    tracer.teardown_worker(0)
    spans = await store.query_spans(rollout.rollout_id, "latest")
    triplets = TracerTraceToTriplet().adapt(spans)
    answers = {triplet.response["raw_content"][0]["content"]: triplet for triplet in triplets}
    assert sorted(answers) == ["echo: And a span?", ANSWER]
    assert answers[ANSWER].response["token_ids"] == token_ids_of(ANSWER)
    assert answers[ANSWER].prompt["token_ids"]
    assert len(answers[ANSWER].response["logprobs"]) == len(tokens_of(ANSWER))
    assert sorted(str(triplet.reward) for triplet in triplets) == ["1.0", "None"]


async def ask(client: Any, question: str) -> None:
    await client.chat.completions.create(
        model="tiny-chat",
        messages=[{"role": "user", "content": question}],
        logprobs=True,
        extra_body={"return_token_ids": True},
    )


async def test_spans_of_opentelemetrys_sdk_are_adapted_too() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("agent", attributes={"agent.name": "alice"}):
        ids = {"prompt_token_ids": [1], "response_token_ids": [2]}
        tracer.start_span("openai.chat.completion", attributes=ids).end()
    (triplet,) = TracerTraceToTriplet().adapt(exporter.get_finished_spans())
    assert (triplet.prompt["token_ids"], triplet.response["token_ids"]) == ([1], [2])
    assert triplet.metadata["agent_name"] == "alice"


def test_drawing_returns_the_repaired_tree_or_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match="graphviz"):
        TracerTraceToTriplet().visualize([root(), chat(1, 1, 2)])


def test_an_adapter_of_ones_own_overrides_adapt() -> None:
    class Names(TraceAdapter[list[str]]):
        def adapt(self, source: Any, /) -> list[str]:
            return [each.name for each in source]

    assert Names()([root()]) == ["root"]
    with pytest.raises(NotImplementedError, match="TraceAdapter does not override adapt"):
        TraceAdapter[Any]().adapt([])
    assert issubclass(TracerTraceToTriplet, TraceToTripletBase)
    assert issubclass(TraceToTripletBase, TraceAdapter)
    assert issubclass(OtelTraceAdapter, Adapter)


def test_adapters_need_neither_grpc_nor_a_client_library_nor_the_sdk_of_opentelemetry() -> None:
    heavy = {"grpc", "openai", "graphviz", "opentelemetry"}
    code = f"import sys, agentlightning.adapter; print(*{heavy!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""

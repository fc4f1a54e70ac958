"""Model calls: which are recorded, with what, and for whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai_server import MODEL, OpenAIServer, logprob_of, prompt_of, token_ids_of, tokens_of
from scripts import run_script

from agentlightning import (
    InMemoryLightningStore,
    LitAgent,
    LitAgentRunner,
    NamedResources,
    OtelTracer,
    Rollout,
    Span,
    emit_reward,
)
from agentlightning.instrumentation.libraries import LIBRARIES, Library
from agentlightning.instrumentation.token_ids import token_attributes, token_attributes_of_span
from agentlightning.utils.threads import run_in_thread

TRAINING = {"logprobs": True, "extra_body": {"return_token_ids": True}}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def asking(text: str, **more: Any) -> dict[str, Any]:
    """The arguments of a chat completion."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as served:
        yield served


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def async_client(server: OpenAIServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def tracer() -> Iterator[OtelTracer]:
    made = OtelTracer()
    with made.lifespan():
        yield made


async def answered(client: AsyncOpenAI, **request: Any) -> None:
    """Makes a call and reads all of its answer."""
    answer: Any = await client.chat.completions.create(**request)
    if request.get("stream"):
        async for _ in answer:
            pass


def of_tokens(span: Span) -> tuple[Any, Any, Any]:
    names = ("prompt_token_ids", "response_token_ids", "response_logprobs")
    return tuple(span.attributes.get(name) for name in names)


@pytest.mark.parametrize("options", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
async def test_a_model_call_is_recorded_with_its_messages_and_tokens(
    tracer: OtelTracer, async_client: AsyncOpenAI, options: dict[str, Any]
) -> None:
    async with tracer.trace_context():
        with tracer.operation_context("agent"):
            await answered(async_client, **asking("What is a rollout?", temperature=0.5, **options, **TRAINING))
    call, agent = tracer.get_last_trace()
    assert call.parent_id == agent.span_id
    assert call.status.status_code == "OK"
    said = "echo: What is a rollout?"
    assert call.attributes["llm.input_messages.0.message.content"] == "What is a rollout?"
    assert call.attributes["llm.output_messages.0.message.content"] == said
    assert call.attributes["llm.model_name"] == MODEL
    assert json.loads(str(call.attributes["llm.invocation_parameters"]))["temperature"] == 0.5
    assert of_tokens(call) == (
        token_ids_of(prompt_of(asking("What is a rollout?")["messages"])),
        token_ids_of(said),
        [logprob_of(token) for token in tokens_of(said)],
    )


async def test_plain_clients_and_text_completions_are_recorded(tracer: OtelTracer, client: OpenAI) -> None:
    async with tracer.trace_context():
        client.chat.completions.create(**asking("chat", **TRAINING))
        client.completions.create(model=MODEL, prompt="text", logprobs=1, extra_body={"return_token_ids": True})
        client.embeddings.create(model=MODEL, input="vector")
    chat, text, embedding = tracer.get_last_trace()
    assert of_tokens(chat)[1] == token_ids_of("echo: chat")
    assert of_tokens(text) == (
        token_ids_of("text"),
        token_ids_of(" echo: text"),
        [logprob_of(token) for token in tokens_of(" echo: text")],
    )
    assert embedding.attributes["openinference.span.kind"] == "EMBEDDING"
    assert len({span.trace_id for span in (chat, text, embedding)}) == 1


async def test_tool_calls_and_their_results_are_recorded(tracer: OtelTracer, client: OpenAI) -> None:
    async with tracer.trace_context():
        for stream in (False, True):
            request = asking("Paris", tools=[WEATHER], stream=stream)
            answer = client.chat.completions.create(**request)
            if stream:
                list(answer)
        message = client.chat.completions.create(**asking("Paris", tools=[WEATHER])).choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
        client.chat.completions.create(
            model=MODEL, messages=[*asking("Paris")["messages"], message, result], tools=[WEATHER]
        )
    *calls, final = tracer.get_last_trace()
    assert len(calls) == 3
    for call in calls:
        asked = "llm.output_messages.0.message.tool_calls.0.tool_call.function"
        assert call.attributes[f"{asked}.name"] == "weather"
        assert json.loads(str(call.attributes[f"{asked}.arguments"])) == {"city": "Paris"}
        assert json.loads(str(call.attributes["llm.tools.0.tool.json_schema"])) == WEATHER
    assert final.attributes["llm.output_messages.0.message.content"] == "tool said: sunny"


async def test_a_refused_call_is_recorded_and_raised(tracer: OtelTracer, server: OpenAIServer, client: OpenAI) -> None:
    server.refuse(429, "slow down")
    server.refuse(500)
    async with tracer.trace_context():
        with pytest.raises(openai.RateLimitError, match="slow down"):
            client.chat.completions.create(**asking("a"))
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**asking("a"))
        client.chat.completions.create(**asking("a"))
    spans = tracer.get_last_trace()
    assert [span.status.status_code for span in spans] == ["ERROR", "ERROR", "OK"]
    assert "slow down" in str(spans[0].status.description)
    assert [event.name for event in spans[0].events] == ["exception"]


async def test_a_stream_that_is_left_early_is_recorded_as_far_as_it_was_read(
    tracer: OtelTracer, client: OpenAI
) -> None:
    async with tracer.trace_context():
        with client.chat.completions.create(stream=True, **asking("one two three", **TRAINING)) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content == " one":
                    break
    (call,) = tracer.get_last_trace()
    assert call.attributes["llm.output_messages.0.message.content"] == "echo: one"
    assert of_tokens(call)[1] == token_ids_of("echo: one")


async def test_concurrent_async_agents_each_get_their_own_calls() -> None:
    tracer = OtelTracer()
    with OpenAIServer(together=16) as server, tracer.lifespan():
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:

            async def attempt(number: int) -> list[Span]:
                async with tracer.trace_context(rollout_id=f"ro-{number}", attempt_id="at"):
                    for turn in range(2):
                        await answered(client, **asking(f"{number}.{turn}", stream=bool(turn), **TRAINING))
                    return tracer.get_last_trace()

            traces = await asyncio.gather(*(attempt(number) for number in range(16)))
    expect_own_calls(traces)


async def test_concurrent_agents_in_threads_each_get_their_own_calls() -> None:
    tracer = OtelTracer()
    with OpenAIServer(together=16) as server, tracer.lifespan():

        def agent(number: int) -> None:
            with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
                client.chat.completions.create(**asking(f"{number}.0", **TRAINING))
                list(client.chat.completions.create(**asking(f"{number}.1", stream=True, **TRAINING)))

        async def attempt(number: int) -> list[Span]:
            async with tracer.trace_context(rollout_id=f"ro-{number}", attempt_id="at"):
                await run_in_thread(agent, number)
                return tracer.get_last_trace()

        traces = await asyncio.gather(*(attempt(number) for number in range(16)))
    expect_own_calls(traces)


def expect_own_calls(traces: list[list[Span]]) -> None:
    assert len({span.trace_id for trace in traces for span in trace}) == 16
    for number, trace in enumerate(traces):
        assert {span.rollout_id for span in trace} == {f"ro-{number}"}
        assert [of_tokens(span)[1] for span in trace] == [token_ids_of(f"echo: {number}.{turn}") for turn in range(2)]


async def test_a_runner_stores_the_calls_of_its_agent_with_packed_token_ids(server: OpenAIServer) -> None:
    class Agent(LitAgent[str]):
        def rollout(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            with OpenAI(base_url=server.base_url, api_key="none") as client:
                client.chat.completions.create(**asking(task, **TRAINING))
            return 1.0

    store = InMemoryLightningStore()
    runner = LitAgentRunner[str](OtelTracer(), heartbeat_interval=0)
    with runner.run_context(agent=Agent(), store=store):
        done = await runner.step("hello", resources={})
    call = next(span for span in await store.query_spans(done.rollout_id) if span.name == "ChatCompletion")
    assert of_tokens(call) == (
        token_ids_of("<user> hello\n"),
        token_ids_of("echo: hello"),
        [logprob_of(token) for token in tokens_of("echo: hello")],
    )


async def test_calls_outside_of_attempts_are_recorded_for_nobody(tracer: OtelTracer, client: OpenAI) -> None:
    async with tracer.trace_context():
        emit_reward(1)
    client.chat.completions.create(**asking("between"))
    assert [span.name for span in tracer.get_last_trace()] == ["agentlightning.annotation"]


async def test_two_tracers_record_each_call_once(client: OpenAI) -> None:
    first, second = OtelTracer(), OtelTracer()
    with first.lifespan(), second.lifespan():
        async with second.trace_context():
            client.chat.completions.create(**asking("hello"))
        assert len(second.get_last_trace()) == 1
        assert first.get_last_trace() == second.get_last_trace()


AGENT = """
import asyncio, logging, sys
from openai_server import MODEL, OpenAIServer
from agentlightning import OtelTracer
logging.basicConfig(format="%(levelname)s %(message)s")
logging.getLogger("agentlightning").setLevel(logging.INFO)
def ask(url):
    from openai import OpenAI
    with OpenAI(base_url=url, api_key="none") as client:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
async def calls(tracer):
    with OpenAIServer() as server:
        async with tracer.trace_context():
            await asyncio.to_thread(ask, server.base_url)
    return [span.name for span in tracer.get_last_trace()]
"""


def test_a_library_is_instrumented_when_the_agent_imports_it_and_not_before() -> None:
    run_script(
        AGENT
        + """
async def main():
    tracer = OtelTracer()
    with tracer.lifespan():
        assert not {"openai", "anthropic", "openinference"} & set(sys.modules)
        assert await calls(tracer) == ["ChatCompletion"]
asyncio.run(main())
"""
    )


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.distribution)
def test_each_library_is_instrumented_and_left_as_it_was(library: Library) -> None:
    for distribution in (library.distribution, library.instrumentor_distribution):
        try:
            version(distribution)
        except PackageNotFoundError:
            pytest.skip(f"{distribution} is not installed")
    run_script(
        f"""
import importlib, sys
from agentlightning import OtelTracer
from agentlightning.instrumentation.libraries import INSTRUMENTATION
with OtelTracer().lifespan():
    assert INSTRUMENTATION.libraries == []
    import {library.module}
    assert {library.distribution!r} in INSTRUMENTATION.libraries
    instrumentor = importlib.import_module({library.instrumentor_module!r}).{library.instrumentor_class}()
    assert instrumentor.is_instrumented_by_opentelemetry
assert not instrumentor.is_instrumented_by_opentelemetry
"""
    )


def test_a_library_is_instrumented_while_anybody_needs_it() -> None:
    run_script(
        """
import openai
from agentlightning import OtelTracer
from agentlightning.instrumentation import instrument_all, uninstrument_all
before = openai.OpenAI.request
def current():
    return vars(openai.OpenAI).get("request", before)
with OtelTracer(instrument=False).lifespan():
    assert current() is before
first = OtelTracer()
with first.lifespan():
    instrumented = current()
    assert instrumented is not before
    # Setting up twice needs no second teardown.
    first.init_worker(0)
    with OtelTracer().lifespan():
        pass
    assert current() is instrumented
assert current() is before
instrument_all()
instrument_all()
with OtelTracer().lifespan():
    assert current() is not before
    uninstrument_all()
    uninstrument_all()
    assert current() is not before
assert current() is before
"""
    )


def test_a_tracer_leaves_model_calls_alone_when_told_to() -> None:
    run_script(
        AGENT
        + """
async def main():
    tracer = OtelTracer(instrument=False)
    with tracer.lifespan():
        assert await calls(tracer) == []
asyncio.run(main())
"""
    )


def test_libraries_instrumented_by_hand_are_recorded_through_the_global_provider() -> None:
    run_script(
        AGENT
        + """
from agentlightning.instrumentation import instrument_all
instrument_all()
async def main():
    for tracer in (OtelTracer(), OtelTracer(instrument=False)):
        with tracer.lifespan():
            assert await calls(tracer) == ["ChatCompletion"]
asyncio.run(main())
"""
    )


def test_a_missing_instrumentor_is_named_once_and_breaks_nothing() -> None:
    said = run_script(
        AGENT
        + """
sys.modules["openinference.instrumentation.openai"] = None
async def main():
    tracer = OtelTracer()
    with tracer.lifespan():
        assert await calls(tracer) == await calls(tracer) == []
asyncio.run(main())
"""
    )
    assert said.startswith("WARNING calls of openai are not recorded")
    assert said.endswith("; install openinference-instrumentation-openai, or say OtelTracer(instrument=False)\n")
    assert said.count("\n") == 1


def test_an_instrumentor_that_fails_does_not_take_the_agents_import_with_it(tmp_path: Path) -> None:
    package = tmp_path / "openinference" / "instrumentation" / "openai"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "__init__.py").write_text("raise RuntimeError('made for another release')")
    said = run_script(
        AGENT
        + f"""
sys.path.insert(0, {str(tmp_path)!r})
async def main():
    tracer = OtelTracer()
    with tracer.lifespan():
        assert await calls(tracer) == []
asyncio.run(main())
"""
    )
    assert said == "WARNING calls of openai are not recorded: RuntimeError: made for another release\n"


def test_telemetry_variables_hide_nothing_from_training() -> None:
    run_script(
        AGENT
        + f"""
WEATHER = {WEATHER!r}
def ask(url):
    from openai import OpenAI
    parts = [{{"type": "text", "text": "what is it?"}}, {{"type": "image_url", "image_url": {{"url": IMAGE}}}}]
    with OpenAI(base_url=url, api_key="none") as client:
        client.chat.completions.create(
            model=MODEL, messages=[{{"role": "user", "content": parts}}], tools=[WEATHER], temperature=0.5
        )
IMAGE = "data:image/png;base64," + "A" * 100_000
async def main():
    tracer = OtelTracer()
    with tracer.lifespan():
        assert await calls(tracer) == ["ChatCompletion"]
    (call,) = tracer.get_last_trace()
    said = str(call.attributes)
    assert IMAGE in map(str, call.attributes.values())
    assert "what is it?" in said and "weather" in said
    assert "temperature" in call.attributes["llm.invocation_parameters"]
    assert call.attributes["llm.output_messages.0.message.tool_calls.0.tool_call.function.name"] == "weather"
    assert "__REDACTED__" not in said
asyncio.run(main())
""",
        OPENINFERENCE_HIDE_INPUTS="true",
        OPENINFERENCE_HIDE_OUTPUTS="true",
        OPENINFERENCE_HIDE_INPUT_IMAGES="true",
        OPENINFERENCE_HIDE_LLM_TOOLS="true",
        OPENINFERENCE_HIDE_LLM_INVOCATION_PARAMETERS="true",
        OPENINFERENCE_BASE64_IMAGE_MAX_LENGTH="10",
    )


@pytest.mark.parametrize("is_global", [True, False])
def test_a_users_own_instrumentation_stays_and_nothing_is_doubled(is_global: bool) -> None:
    said = run_script(
        AGENT
        + f"""
from openinference.instrumentation.openai import OpenAIInstrumentor
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
mine = InMemorySpanExporter()
tracer, provider = OtelTracer(), TracerProvider()
if {is_global}:
    trace.set_tracer_provider(provider)
else:
    provider = tracer.tracer_provider
provider.add_span_processor(SimpleSpanProcessor(mine))
OpenAIInstrumentor().instrument(tracer_provider=provider)
async def main():
    with tracer.lifespan():
        assert await calls(tracer) == ["ChatCompletion"]
    assert OpenAIInstrumentor().is_instrumented_by_opentelemetry
asyncio.run(main())
assert [span.name for span in mine.get_finished_spans()] == ["ChatCompletion"]
"""
    )
    assert "openai is instrumented by openinference.instrumentation.openai.OpenAIInstrumentor already" in said


def test_our_own_calls_never_show_in_traces() -> None:
    run_script(
        """
import asyncio
from agentlightning import (
    InMemoryLightningStore, LightningStoreClient, LightningStoreServer, LitAgent, LitAgentRunner, OtelTracer,
    emit_reward,
)
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
mine = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(mine))
trace.set_tracer_provider(provider)
GrpcAioInstrumentorClient().instrument()
GrpcInstrumentorClient().instrument()
class Agent(LitAgent):
    async def rollout_async(self, task, resources, rollout):
        for number in range(300):
            emit_reward(number)
        await asyncio.sleep(0.2)
        return 1.0
async def main():
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    store = LightningStoreClient(server.endpoint)
    try:
        runner = LitAgentRunner(OtelTracer(), heartbeat_interval=0.05)
        with runner.run_context(agent=Agent(), store=store):
            done = await runner.step("x", resources={})
        spans = await store.query_spans(done.rollout_id)
    finally:
        await store.close()
        await server.stop()
    assert len(spans) == 301, len(spans)
    assert {span.name for span in spans} == {"agentlightning.annotation"}
asyncio.run(main())
# The user's own telemetry does see them.
assert any("AddSpans" in span.name for span in mine.get_finished_spans())
"""
    )


def test_importing_the_tracer_imports_no_library() -> None:
    run_script(
        """
import sys
import agentlightning.instrumentation
from agentlightning import OtelTracer
OtelTracer()
assert not {"openai", "openinference", "wrapt", "agentops", "grpc"} & set(sys.modules)
"""
    )


def test_token_ids_are_read_from_answers_and_chunks() -> None:
    first = {"prompt_token_ids": [1, 2], "choices": [{"index": 0, "delta": {"role": "assistant"}}]}
    rest = [
        {"choices": [{"index": 0, "token_ids": [token], "logprobs": {"content": [{"logprob": -0.5}]}}]}
        for token in (3, 4)
    ]
    usage: dict[str, Any] = {"choices": [], "usage": {}}
    assert token_attributes([first, *rest, usage]) == {
        "prompt_token_ids": [1, 2],
        "response_token_ids": [3, 4],
        "response_logprobs": [-0.5, -0.5],
    }
    both = {"choices": [{"index": 1, "token_ids": [9]}, {"index": 0, "token_ids": [3], "prompt_token_ids": [1]}]}
    assert token_attributes([both]) == {"prompt_token_ids": [1], "response_token_ids": [3]}
    echoed = {"choices": [{"index": 0, "token_ids": [3, 4], "logprobs": {"token_logprobs": [None, -1.0]}}]}
    assert token_attributes([echoed]) == {"response_token_ids": [3, 4]}
    assert token_attributes([]) == token_attributes([{"choices": None}]) == {}


@pytest.mark.parametrize(
    "output",
    ["no JSON about token_ids", '"token_ids"', '{"choices": {"token_ids": 1}}', '{"choices": [{"token_ids": 5}]}', 7],
)
def test_an_answer_that_means_something_else_by_token_ids_breaks_nothing(output: Any) -> None:
    assert token_attributes_of_span({"openinference.span.kind": "LLM", "output.value": output}) == {}


def test_instrumenting_while_another_thread_imports_does_not_hang() -> None:
    run_script(
        """
import threading
from agentlightning.instrumentation import instrument_all
from agentlightning.instrumentation.libraries import INSTRUMENTATION
both = threading.Barrier(2)
def load():
    both.wait()
    import openai
thread = threading.Thread(target=load)
thread.start()
both.wait()
instrument_all()
thread.join()
import openai
assert INSTRUMENTATION.libraries == ["openai"]
"""
    )

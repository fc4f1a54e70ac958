"""Records the traces in `traces/`: what real instrumentations write when a small agent calls a model.

    python tests/adapter/capture_traces.py DIALECT

Each dialect needs packages, and some an environment of their own; see `DIALECTS`. Ids and times are replaced by counted
ones: two captures with the same packages differ in the durations, and run ids, that an instrumentation notes itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "framework"))

from openai_server import MODEL, OpenAIServer

from agentlightning import OtelTracer, emit_reward

if TYPE_CHECKING:
    from openai import OpenAI

FOLDER = Path(__file__).parent / "traces"
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
EPOCH = 1_700_000_000.0
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TRAINING = {"logprobs": True, "extra_body": {"return_token_ids": True}}


def chat(client: OpenAI) -> None:
    """Two calls of a conversation."""
    messages: list[Any] = [SYSTEM, {"role": "user", "content": "What is a rollout?"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0.5, **TRAINING)
    messages += [answer.choices[0].message, {"role": "user", "content": "And a span?"}]
    client.chat.completions.create(model=MODEL, messages=messages, temperature=0.5, **TRAINING)


def stream(client: OpenAI) -> None:
    """One streamed call."""
    messages: list[Any] = [SYSTEM, {"role": "user", "content": "What is a rollout?"}]
    options = {"stream": True, "stream_options": {"include_usage": True}, **TRAINING}
    for _ in client.chat.completions.create(model=MODEL, messages=messages, **options):
        pass


def tools(client: OpenAI) -> None:
    """A call that asks for a tool, and one that gets its result."""
    messages: list[Any] = [SYSTEM, {"role": "user", "content": "Paris"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], **TRAINING)
    message = answer.choices[0].message
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 21 degrees"}]
    client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], **TRAINING)


def langchain(client: OpenAI) -> None:
    """A LangChain model and a parser behind it."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_openai import ChatOpenAI

    url = str(client.base_url)
    model = ChatOpenAI(model=MODEL, base_url=url, api_key="none", logprobs=True, extra_body=TRAINING["extra_body"])
    (model | StrOutputParser()).invoke("What is a rollout?")


def openinference() -> OtelTracer:
    """openai, openinference-instrumentation-openai: what `OtelTracer` records by itself."""
    return OtelTracer()


def openinference_langchain() -> OtelTracer:
    """langchain-openai and openinference-instrumentation-langchain as well: each call is recorded twice."""
    from openinference.instrumentation.langchain import LangChainInstrumentor

    tracer = OtelTracer()
    LangChainInstrumentor().instrument(tracer_provider=tracer.tracer_provider)
    return tracer


def otel_genai() -> OtelTracer:
    """openai, httpx, opentelemetry-instrumentation-openai-v2==2.4b0 with opentelemetry-util-genai==0.4b0."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    tracer = OtelTracer(instrument=False)
    OpenAIInstrumentor().instrument(tracer_provider=tracer.tracer_provider)
    return tracer


def agentops() -> OtelTracer:
    """openai, agentops: what `AgentOpsTracer` records."""
    from agentlightning.tracer.agentops import AgentOpsTracer

    return AgentOpsTracer()


class Dialect(NamedTuple):
    """A way of writing model calls down."""

    make_tracer: Callable[[], OtelTracer]
    """Its docstring names the packages."""
    scenarios: tuple[Callable[[OpenAI], None], ...] = (chat, stream, tools)
    """What the agent does, a file for each."""


DIALECTS = {
    "openinference": Dialect(openinference),
    "openinference_langchain": Dialect(openinference_langchain, (langchain,)),
    "otel_genai": Dialect(otel_genai),
    "agentops": Dialect(agentops),
}


async def capture(name: str) -> None:
    """Writes one file for each scenario of a dialect."""
    from openai import OpenAI

    tracer = DIALECTS[name].make_tracer()
    for scenario in DIALECTS[name].scenarios:
        with tracer.lifespan(), OpenAIServer() as server, OpenAI(base_url=server.base_url, api_key="none") as client:
            async with tracer.trace_context(rollout_id="ro-captured", attempt_id="at-captured"):
                with tracer.operation_context("agent", {"agent.name": "captured"}):
                    scenario(client)
                emit_reward(0.5)
            spans = [span.model_dump() for span in tracer.get_last_trace()]
        write(name if len(DIALECTS[name].scenarios) == 1 else f"{name}_{scenario.__name__}", spans)


def write(name: str, spans: list[Any]) -> None:
    """Writes a trace, its ids and times replaced by counted ones and numbered as a store does."""
    times = sorted({time for span in spans for time in times_of(span)})
    counted: dict[Any, Any] = {time: EPOCH + place / 1000 for place, time in enumerate(times)}
    for number, span in enumerate(sorted(spans, key=lambda span: span["start_time"]), start=1):
        counted[span["span_id"]] = f"{number:016x}"
        counted.setdefault(span["trace_id"], f"{number:032x}")
        counted[span["resource"]["attributes"].get("service.instance.id")] = "captured"
    document = [{**replace(span, counted), "sequence_id": place} for place, span in enumerate(spans, start=1)]
    (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{name}: {len(spans)} spans")


def times_of(span: Any) -> Iterator[float]:
    """Yields the times of a span and of its events."""
    yield from (span["start_time"], span["end_time"])
    yield from (event["timestamp"] for event in span["events"])


def replace(value: Any, by: dict[Any, Any]) -> Any:
    """Returns `value` with what `by` names replaced, wherever it stands."""
    if isinstance(value, dict):
        return {key: replace(item, by) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace(item, by) for item in value]
    return by.get(value, value) if isinstance(value, (str, float)) else value


if __name__ == "__main__":
    asyncio.run(capture(sys.argv[1]))

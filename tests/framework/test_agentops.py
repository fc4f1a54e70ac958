"""Agents that use the AgentOps SDK: recorded like any other, and nothing leaves the machine.

The SDK changes its process for good, so each test has a process of its own.
"""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
from scripts import run_script

from agentlightning.tracer.otel import OtelTracer

needs_agentops = pytest.mark.skipif(find_spec("agentops") is None, reason="the AgentOps SDK is not installed")
needs_langchain = pytest.mark.skipif(find_spec("langchain_core") is None, reason="LangChain is not installed")

API_KEY = "3b2b0ab8-9b1f-4e2b-8d53-1d9e7f3a1c55"

# Connections and look-ups of names are refused, and noted for the end of the script: the SDK swallows errors.
GUARD = """
import sys
left = []
def guard(event, arguments):
    if event == "socket.connect":
        host = arguments[1][0] if isinstance(arguments[1], tuple) else "127.0.0.1"
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in ("127.0.0.1", "localhost", None):
        left.append((event, host))
        raise OSError(f"no network here: {host}")
sys.addaudithook(guard)
"""

AGENT = """
import asyncio, builtins, os, threading
plain_print = print
from openai_server import MODEL, OpenAIServer, logprob_of, prompt_of, token_ids_of, tokens_of
from agentlightning import emit_reward
from agentlightning.tracer.agentops import AgentOpsTracer
TRAINING = {"logprobs": True, "extra_body": {"return_token_ids": True}}
def asking(text, **more):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **TRAINING, **more}
def tokens(span):
    names = "prompt_token_ids", "response_token_ids", "response_logprobs"
    return [list(span.attributes.get(name, ())) for name in names]
def expected(text):
    said = f"echo: {text}"
    return [token_ids_of(prompt_of(asking(text)["messages"])), token_ids_of(said), [*map(logprob_of, tokens_of(said))]]
"""


def run_offline(code: str, folder: Path) -> str:
    """Runs `code` in a process that refuses the network, and fails if it was tried; returns what it printed."""
    return run_script(f"{GUARD}{AGENT}{code}\nassert not left, left", folder, AGENTOPS_API_KEY=API_KEY)


@needs_agentops
def test_spans_of_the_sdk_are_recorded_and_nothing_leaves_the_machine(tmp_path: Path) -> None:
    run_offline(
        f"""
import agentops, openai
from agentops.sdk.decorators import agent, operation
from agentlightning import InMemoryLightningStore, LitAgent, LitAgentRunner
@agent
class Researcher:
    @operation
    def look_up(self, client, text):
        return client.chat.completions.create(**asking(text)).choices[0].message.content
class Agent(LitAgent):
    def rollout(self, task, resources, rollout):
        # As scripts for AgentOps do.
        agentops.init(api_key={API_KEY!r})
        with openai.OpenAI(base_url=task, api_key="none") as client:
            assert Researcher().look_up(client, "one") == "echo: one"
            list(client.chat.completions.create(**asking("two", stream=True)))
            with agentops.start_trace("session"):
                client.chat.completions.create(**asking("three"))
        return 0.5
async def main():
    store = InMemoryLightningStore()
    runner = LitAgentRunner(AgentOpsTracer(), heartbeat_interval=0)
    with OpenAIServer() as server, runner.run_context(agent=Agent(), store=store):
        done = await runner.step(server.base_url, resources={{}})
    assert done.status == "succeeded"
    spans = {{span.span_id: span for span in await store.query_spans(done.rollout_id)}}
    calls = [span for span in spans.values() if span.name == "openai.chat.completion"]
    assert [tokens(call) for call in calls] == [expected("one"), expected("two"), expected("three")]
    assert calls[0].attributes["gen_ai.completion.0.content"] == "echo: one"
    task = spans[calls[0].parent_id]
    assert (task.name, task.attributes["agentops.task.output"]) == ("look_up.task", "echo: one")
    assert spans[task.parent_id].name == "Researcher.agent"
    assert spans[calls[2].parent_id].name == "session.session"
    names = sorted(span.name for span in spans.values())
    assert names == sorted(["agentlightning.annotation", "look_up.task", "Researcher.agent", "session.session"]
                           + 3 * ["openai.chat.completion"]), names
    assert len({{span.trace_id for span in spans.values()}}) == 1
asyncio.run(main())
assert builtins.print is plain_print
assert {{thread.name for thread in threading.enumerate()}} <= {{"MainThread", "agl-background"}}
assert os.listdir() == []
""",
        tmp_path,
    )


@needs_agentops
@pytest.mark.parametrize("threads", [False, True])
def test_concurrent_agents_never_mix(tmp_path: Path, threads: bool) -> None:
    run_offline(
        f"""
import openai
from agentops.sdk.decorators import operation
from agentlightning.utils.threads import run_in_thread
@operation
async def ask(client, text):
    async for _ in await client.chat.completions.create(**asking(text, stream=True)):
        pass
@operation
def ask_in_thread(client, text):
    client.chat.completions.create(**asking(text))
async def main():
    tracer = AgentOpsTracer()
    with OpenAIServer(together=16) as server, tracer.lifespan():
        url = {{"base_url": server.base_url, "api_key": "none"}}
        async with openai.AsyncOpenAI(**url) as client:
            with openai.OpenAI(**url) as plain:
                async def attempt(number):
                    async with tracer.trace_context(rollout_id=f"ro-{{number}}", attempt_id="at"):
                        if {threads}:
                            await run_in_thread(ask_in_thread, plain, str(number))
                        else:
                            await ask(client, str(number))
                        return tracer.get_last_trace()
                traces = await asyncio.gather(*(attempt(number) for number in range(16)))
    for number, trace in enumerate(traces):
        assert len(trace) == 2
        assert {{span.rollout_id for span in trace}} == {{f"ro-{{number}}"}}
        call, = (span for span in trace if span.name == "openai.chat.completion")
        assert tokens(call) == expected(str(number))
asyncio.run(main())
""",
        tmp_path,
    )


@needs_agentops
def test_an_sdk_that_the_user_runs_stays_as_it_is_and_is_recorded_too(tmp_path: Path) -> None:
    run_offline(
        """
import agentops, openai
from agentops.sdk.core import tracer as sdk
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
del os.environ["AGENTOPS_API_KEY"]
# Nobody listens there: what the SDK sends is lost.
agentops.init(exporter_endpoint="http://127.0.0.1:1", auto_start_session=False, log_level="CRITICAL")
users = sdk.provider
exported = InMemorySpanExporter()
users.add_span_processor(SimpleSpanProcessor(exported))
async def main():
    tracer = AgentOpsTracer(agentops_managed=False)
    with OpenAIServer() as server, tracer.lifespan():
        async with tracer.trace_context():
            with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
                client.chat.completions.create(**asking("mine"))
    call, = tracer.get_last_trace()
    assert tokens(call) == expected("mine")
asyncio.run(main())
assert sdk.provider is users
assert [span.name for span in exported.get_finished_spans()] == ["openai.chat.completion"]
assert not left, left
# When the process ends the SDK sends what it has, and takes half a minute to give up.
os._exit(0)
""",
        tmp_path,
    )


@needs_agentops
def test_another_tracer_beside_it_doubles_nothing(tmp_path: Path) -> None:
    run_offline(
        """
import openai
from agentlightning import OtelTracer
async def main():
    with OtelTracer().lifespan():
        try:
            with AgentOpsTracer().lifespan():
                raise SystemExit("both tracers record model calls")
        except RuntimeError as error:
            assert "record each a second time" in str(error)
    with AgentOpsTracer().lifespan():
        pass
    later = OtelTracer()
    with OpenAIServer() as server, later.lifespan():
        async with later.trace_context():
            with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
                client.chat.completions.create(**asking("once"))
    assert [span.name for span in later.get_last_trace()] == ["openai.chat.completion"]
asyncio.run(main())
""",
        tmp_path,
    )


@needs_agentops
def test_more_workers_start_the_sdk_no_second_time(tmp_path: Path) -> None:
    said = run_offline(
        """
import logging, openai
from concurrent.futures import ThreadPoolExecutor
logging.basicConfig(level=logging.WARNING)
together = threading.Barrier(8)
def start(tracer):
    together.wait()
    tracer.init_worker(0)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(start, [AgentOpsTracer() for _ in range(8)]))
async def main():
    with OpenAIServer() as server:
        for _ in range(2):
            tracer = AgentOpsTracer()
            with tracer.lifespan():
                async with tracer.trace_context():
                    with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
                        client.chat.completions.create(**asking("again"))
                        emit_reward(1)
            assert [span.name for span in tracer.get_last_trace()] == [
                "openai.chat.completion", "agentlightning.annotation"]
asyncio.run(main())
""",
        tmp_path,
    )
    assert said == ""


@needs_agentops
@needs_langchain
def test_its_langchain_handler_records_below_the_span_that_is_open(tmp_path: Path) -> None:
    run_offline(
        """
from langchain_core.runnables import RunnableLambda
async def main():
    tracer = AgentOpsTracer()
    with tracer.lifespan():
        async with tracer.trace_context():
            with tracer.operation_context("agent"):
                handler = tracer.get_langchain_handler(tags=["test"])
                chain = RunnableLambda(lambda text: text.upper())
                assert chain.invoke("a", config={"callbacks": [handler]}) == "A"
    chain, agent = tracer.get_last_trace()
    assert chain.parent_id == agent.span_id
asyncio.run(main())
""",
        tmp_path,
    )


@needs_agentops
def test_the_tracer_travels_to_runner_processes() -> None:
    from agentlightning.tracer.agentops import AgentOpsTracer

    tracer = AgentOpsTracer(agentops_managed=False, daemon=False)
    copy = pickle.loads(pickle.dumps(tracer))
    assert isinstance(copy, OtelTracer)
    assert {**vars(tracer), **vars(copy)} == {**vars(tracer), "_store": None}


def test_without_the_sdk_the_error_says_what_to_install() -> None:
    run_script(
        """
import sys
sys.modules["agentops"] = None
from agentlightning.tracer.agentops import AgentOpsTracer
try:
    AgentOpsTracer()
except ImportError as error:
    assert "agentlightning-grpc[agentops]" in str(error)
else:
    raise SystemExit("no error")
"""
    )

"""The tracer that keeps everything to itself, and what every tracer offers."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentlightning import InMemoryLightningStore, OtelTracer, Tracer, emit_reward, find_final_reward, get_active_tracer
from agentlightning.emitter import emit_message, get_message_value, operation
from agentlightning.tracer import DummyTracer


def test_spans_can_be_made_without_a_trace() -> None:
    tracer = DummyTracer()
    core = tracer.create_span("x", {"a": 1}, timestamp=5.0)
    assert (core.name, core.attributes, core.start_time, core.end_time) == ("x", {"a": 1}, 5.0, 5.0)
    assert core.status.status_code == "OK"
    with tracer.operation_context("y", start_time=1.0, end_time=2.5) as recording:
        recording.record_attributes({"b": 2})
    done = recording.get_recorded_span()
    assert (done.attributes, done.start_time, done.end_time, done.status.status_code) == ({"b": 2}, 1.0, 2.5, "OK")
    assert tracer.get_last_trace() == []


async def test_a_trace_holds_what_was_made_in_it() -> None:
    tracer = DummyTracer()
    async with tracer.trace_context("test", rollout_id="ro", attempt_id="at") as yielded:
        assert yielded is get_active_tracer() is tracer
        with operation(name="outer"):
            emit_message("inner")
            with operation(name="deeper"):
                pass
        emit_reward(0.5)
    inner, deeper, outer, reward = tracer.get_last_trace()
    assert get_message_value(inner) == "inner"
    assert inner.parent_id == deeper.parent_id == outer.span_id
    assert outer.parent_id is None
    assert reward.parent_id is None
    assert find_final_reward(tracer.get_last_trace()) == 0.5
    assert {(span.rollout_id, span.attempt_id) for span in (inner, deeper, outer, reward)} == {("ro", "at")}
    assert len({span.trace_id for span in (inner, deeper, outer, reward)}) == 1
    assert len({span.span_id for span in (inner, deeper, outer, reward)}) == 4


async def test_a_span_outside_of_the_trace_is_no_parent() -> None:
    tracer = DummyTracer()
    with tracer.operation_context("outside"):
        async with tracer.trace_context():
            tracer.create_span("inside")
    assert [(span.name, span.parent_id) for span in tracer.get_last_trace()] == [("inside", None)]


async def test_no_store_hears_of_it() -> None:
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=None)
    tracer = DummyTracer()
    with tracer.lifespan(store):
        async with tracer.trace_context(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id):
            emit_reward(1)
        await tracer.flush()
    assert len(tracer.get_last_trace()) == 1
    assert await store.query_spans(rollout.rollout_id) == []


async def test_concurrent_traces_never_mix() -> None:
    tracer = DummyTracer()

    async def agent(number: int) -> list[str | None]:
        async with tracer.trace_context():
            for _ in range(3):
                await asyncio.sleep(0)
                with operation():
                    await asyncio.to_thread(emit_message, str(number))
            trace = tracer.get_last_trace()
        assert [span.parent_id for span in trace[::2]] == [span.span_id for span in trace[1::2]]
        return [get_message_value(span) for span in trace[::2]]

    traces = await asyncio.gather(*(agent(number) for number in range(8)))
    assert traces == [[str(number)] * 3 for number in range(8)]


async def test_threads_without_context_record_into_the_only_trace() -> None:
    tracer = DummyTracer()
    with ThreadPoolExecutor(1) as pool:
        async with tracer.trace_context():
            pool.submit(emit_message, "from afar").result()
    assert [get_message_value(span) for span in tracer.get_last_trace()] == ["from afar"]


async def test_another_tracers_trace_is_left_alone() -> None:
    open_one = OtelTracer()
    async with open_one.trace_context():
        DummyTracer().create_span("elsewhere")
    assert open_one.get_last_trace() == []


def test_failures_are_recorded() -> None:
    tracer = DummyTracer()
    with pytest.raises(KeyError), tracer.operation_context("x") as recording:
        raise KeyError("lost")
    span = recording.get_recorded_span()
    assert (span.status.status_code, span.status.description) == ("ERROR", "KeyError: 'lost'")
    assert span.attributes["exception.type"] == "KeyError"
    with tracer.operation_context("x") as recording:
        recording.record_status("ERROR", "said so")
    assert recording.get_recorded_span().status.description == "said so"


async def test_what_was_recorded_does_not_change_afterwards() -> None:
    tracer = DummyTracer()
    given = {"a": 1}
    async with tracer.trace_context():
        with tracer.operation_context("x", given) as recording:
            early = recording.get_recorded_span()
            recording.record_attributes({"b": 2})
    recording.record_attributes({"late": 3})
    assert given == {"a": 1}
    assert early.attributes == {"a": 1}
    assert tracer.get_last_trace()[0].attributes == {"a": 1, "b": 2}


async def test_ids_come_together_and_traces_do_not_nest() -> None:
    tracer = DummyTracer()
    with pytest.raises(ValueError, match="belong together"):
        async with tracer.trace_context(rollout_id="ro"):
            pass
    async with tracer.trace_context():
        with pytest.raises(ValueError, match="already set"):
            async with DummyTracer().trace_context():
                pass


async def test_it_travels_to_other_processes() -> None:
    tracer = DummyTracer()
    async with tracer.trace_context():
        emit_reward(1)
    assert pickle.loads(pickle.dumps(tracer)).create_span("x").name == "x"


@pytest.mark.parametrize("kind", [DummyTracer, OtelTracer])
async def test_trace_run_records_a_plain_call(kind: type[Tracer]) -> None:
    tracer = kind()
    async with tracer.trace_context():
        emit_message("before")

    def call(value: int, *, more: int) -> int:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        emit_message("called")
        return value + more

    assert tracer.trace_run(call, 1, more=2) == 3
    assert [get_message_value(span) for span in tracer.get_last_trace()] == ["called"]

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        tracer.trace_run(fail)


async def test_trace_run_works_below_a_running_loop_and_refuses_async_functions() -> None:
    tracer = DummyTracer()
    assert tracer.trace_run(len, "four") == 4

    async def call() -> None: ...

    with pytest.raises(TypeError, match="trace_run_async"):
        tracer.trace_run(call)


def test_there_is_no_handler_for_langchain(caplog: pytest.LogCaptureFixture) -> None:
    assert DummyTracer().get_langchain_handler() is None
    assert "DummyTracer has no callback handler for LangChain" in caplog.text

"""The tracer: which spans are recorded, for whom, and how they reach the store."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import (
    LightningStore,
    OtelTracer,
    Span,
    Tracer,
    clear_active_tracer,
    emit_reward,
    get_active_tracer,
    set_active_tracer,
)
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.tracer import recording as recording_module
from agentlightning.tracer.recording import Recording


class Sink(LightningStore):
    """A store that only takes spans, in ways that a test chooses."""

    def __init__(self, *, thread_safe: bool = True) -> None:
        self.batches: list[list[Span]] = []
        self.threads: set[str] = set()
        self.fail: Exception | None = None
        self.poison: str | None = None
        self.gate: asyncio.Event | None = None
        self._thread_safe = thread_safe

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=self._thread_safe, async_safe=True, zero_copy=False, otlp_traces=False
        )

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self.threads.add(threading.current_thread().name)
        if self.fail is not None:
            raise self.fail
        if any(span.name == self.poison for span in spans):
            raise ValueError(f"poisoned batch of {len(spans)}")
        stored = sum(map(len, self.batches))
        self.batches.append(list(spans))
        return [span.model_copy(update={"sequence_id": stored + index + 1}) for index, span in enumerate(spans)]

    @property
    def names(self) -> list[str]:
        return [span.name for batch in self.batches for span in batch]


def make_span(name: str, **attributes: Any) -> Span:
    return Span.from_attributes(name=name, rollout_id="ro", attempt_id="at", attributes=attributes)


async def test_spans_reach_the_store_in_one_batch_before_the_context_is_left() -> None:
    store = Sink()
    tracer = OtelTracer()
    tracer.init_worker(0, store)
    async with tracer.trace_context("test", rollout_id="ro-1", attempt_id="at-1") as otel:
        with otel.start_as_current_span("outer"):
            with otel.start_as_current_span("inner", attributes={"a": 1}):
                pass
            emit_reward(0.5)
        assert store.batches == []
    assert [store.names] == [["inner", "agentlightning.annotation", "outer"]]
    assert len(store.batches) == 1
    inner, reward, outer = store.batches[0]
    assert inner.parent_id == reward.parent_id == outer.span_id
    assert outer.parent_id is None
    assert len({span.trace_id for span in store.batches[0]}) == 1
    assert {(span.rollout_id, span.attempt_id) for span in store.batches[0]} == {("ro-1", "at-1")}
    assert [span.sequence_id for span in tracer.get_last_trace()] == [1, 2, 3]


async def test_root_spans_of_an_attempt_share_a_trace_and_attempts_do_not() -> None:
    tracer = OtelTracer()
    traces = []
    for _ in range(2):
        async with tracer.trace_context() as otel:
            otel.start_span("a").end()
            otel.start_span("b").end()
            emit_reward(1)
        traces.append({span.trace_id for span in tracer.get_last_trace()})
    assert [len(trace) for trace in traces] == [1, 1]
    assert traces[0] != traces[1]


async def test_concurrent_attempts_never_mix() -> None:
    store = Sink()
    tracer = OtelTracer()
    tracer.init_worker(0, store)

    async def attempt(number: int) -> list[Span]:
        async with tracer.trace_context(rollout_id=f"ro-{number}", attempt_id="at") as otel:
            for step in range(3):
                with otel.start_as_current_span(f"{number}.{step}"):
                    await asyncio.sleep(random.random() / 200)
                await asyncio.to_thread(emit_reward, number)
            return tracer.get_last_trace()

    for number, trace in enumerate(await asyncio.gather(*(attempt(number) for number in range(16)))):
        assert len(trace) == 6
        assert {span.rollout_id for span in trace} == {f"ro-{number}"}
        assert {span.name for span in trace} == {f"{number}.{step}" for step in range(3)} | {
            "agentlightning.annotation"
        }
    assert len(store.names) == 96
    assert all(len({span.rollout_id for span in batch}) == 1 for batch in store.batches)


async def test_agents_that_seed_the_random_generator_lose_no_span() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context() as otel:
        for _ in range(3):
            random.seed(0)
            otel.start_span("x").end()
            emit_reward(1)
    assert len({span.span_id for span in tracer.get_last_trace()}) == 6


async def test_spans_of_threads_without_context_belong_to_the_only_open_attempt() -> None:
    tracer = OtelTracer()
    with ThreadPoolExecutor(1) as pool:
        async with tracer.trace_context():
            pool.submit(emit_reward, 0.5).result()
        assert [span.name for span in tracer.get_last_trace()] == ["agentlightning.annotation"]


async def test_a_thread_without_context_cannot_guess_among_several_attempts() -> None:
    tracer = OtelTracer()
    errors: list[BaseException] = []

    def emit() -> None:
        try:
            emit_reward(1)
        except RuntimeError as error:
            errors.append(error)

    async def attempt() -> None:
        async with tracer.trace_context():
            await asyncio.sleep(0.05)
            thread = threading.Thread(target=emit)
            thread.start()
            thread.join()
            carried = threading.Thread(target=contextvars.copy_context().run, args=(emit_reward, 2))
            carried.start()
            carried.join()
            await asyncio.sleep(0.05)
            assert [span.attributes["agentlightning.reward.0.value"] for span in tracer.get_last_trace()] == [2.0]

    await asyncio.gather(attempt(), attempt())
    assert len(errors) == 2


async def test_a_span_that_ends_late_or_elsewhere_stays_with_its_attempt() -> None:
    store = Sink()
    tracer = OtelTracer()
    tracer.init_worker(0, store)
    async with tracer.trace_context(rollout_id="ro-1", attempt_id="at") as otel:
        late = otel.start_span("late")
    async with tracer.trace_context(rollout_id="ro-2", attempt_id="at"):
        late.end()
    for _ in range(30):
        if store.names:
            break
        await asyncio.sleep(0.1)
    assert [(span.name, span.rollout_id) for batch in store.batches for span in batch] == [("late", "ro-1")]


async def test_nothing_is_recorded_between_attempts() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        pass
    tracer.tracer_provider.get_tracer("x").start_span("between").end()
    assert tracer.get_last_trace() == []


async def test_the_callers_own_span_is_no_parent() -> None:
    tracer = OtelTracer()
    mine = TracerProvider().get_tracer("mine")
    with mine.start_as_current_span("mine"):
        async with tracer.trace_context() as otel:
            with otel.start_as_current_span("agent"):
                pass
        assert trace_api.get_current_span().get_span_context().is_valid
    (span,) = tracer.get_last_trace()
    assert span.parent_id is None


async def test_traces_do_not_nest() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        assert get_active_tracer() is tracer
        with pytest.raises(ValueError, match="already set"):
            async with tracer.trace_context():
                pass
        with pytest.raises(ValueError, match="already set"):
            set_active_tracer(OtelTracer())
    assert get_active_tracer() is None


def test_the_active_tracer_can_be_set_by_hand() -> None:
    def run() -> None:
        tracer = OtelTracer()
        set_active_tracer(tracer)
        assert get_active_tracer() is tracer
        clear_active_tracer()
        assert get_active_tracer() is None

    contextvars.copy_context().run(run)


async def test_ids_come_together() -> None:
    tracer = OtelTracer()
    with pytest.raises(ValueError, match="belong together"):
        async with tracer.trace_context(rollout_id="ro"):
            pass
    with pytest.raises(ValueError, match="stored under"):
        async with tracer.trace_context(store=Sink()):
            pass


def test_spans_need_an_open_trace() -> None:
    with pytest.raises(RuntimeError, match="no trace is open"):
        OtelTracer().create_span("x")


async def test_operations_cover_their_block() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        with tracer.operation_context("call", {"a": 1}) as operation:
            tracer.create_span("child", timestamp=5.0)
            operation.record_attributes({"b": 2})
            assert operation.get_recorded_span().end_time is None
        with pytest.raises(KeyError), tracer.operation_context("bad", start_time=1.75e9, end_time=1.75e9 + 2.5):
            raise KeyError("x")
    child, call, bad = tracer.get_last_trace()
    assert child.parent_id == call.span_id
    assert child.start_time == 5.0
    assert (call.attributes, call.status.status_code) == ({"a": 1, "b": 2}, "OK")
    assert (bad.status.status_code, bad.start_time, bad.end_time) == ("ERROR", 1.75e9, 1.75e9 + 2.5)
    assert bad.status.description == "KeyError: 'x'"
    assert [event.name for event in bad.events] == ["exception"]


async def test_trace_run_async_records_a_call() -> None:
    tracer = OtelTracer()

    async def call(value: int) -> int:
        emit_reward(value)
        return value + 1

    assert await tracer.trace_run_async(call, 1) == 2
    assert await tracer.trace_run_async(lambda: 3) == 3
    with tracer.lifespan():
        assert tracer.worker_id == 0


def test_telemetry_variables_do_not_touch_training_data() -> None:
    code = """
import asyncio
from agentlightning import OtelTracer
async def main():
    tracer = OtelTracer()
    async with tracer.trace_context() as otel:
        otel.start_span("x", attributes={str(index): "y" * 500 for index in range(300)}).end()
    (span,) = tracer.get_last_trace()
    assert len(span.attributes) == 300 and len(span.attributes["0"]) == 500
asyncio.run(main())
"""
    environment = {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10",
    }
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


GLOBAL_API = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from agentlightning import OtelTracer
mine = None
if {own_provider}:
    mine = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(mine))
    trace.set_tracer_provider(provider)
async def main():
    for tracer in (OtelTracer(), OtelTracer()):
        async with tracer.trace_context():
            with trace.get_tracer("agent").start_as_current_span("work"):
                pass
        assert [span.name for span in tracer.get_last_trace()] == ["work"]
    with trace.get_tracer("agent").start_as_current_span("outside"):
        pass
asyncio.run(main())
if mine:
    assert [span.name for span in mine.get_finished_spans()] == ["work", "work", "outside"]
    assert trace.get_tracer_provider() is provider
"""


@pytest.mark.parametrize("own_provider", [False, True])
def test_spans_of_the_global_api_are_recorded(own_provider: bool) -> None:
    code = GLOBAL_API.format(own_provider=own_provider)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_spans_leave_in_the_background_during_a_long_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "LINGER_SECONDS", 0.05)
    store = Sink()
    recording = Recording("ro", "at", store)
    recording.add(make_span("a"))
    recording.add(make_span("b"))
    await asyncio.sleep(0.3)
    assert [[span.name for span in batch] for batch in store.batches] == [["a", "b"]]
    assert store.threads == {"agl-background"}
    recording.add(make_span("c"))
    await recording.flush()
    assert store.names == ["a", "b", "c"]


async def test_an_agent_that_blocks_the_loop_does_not_hold_spans_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "LINGER_SECONDS", 0.01)
    store = Sink()
    Recording("ro", "at", store).add(make_span("a"))
    threading.Event().wait(0.5)
    assert store.names == ["a"]


async def test_a_store_for_one_thread_is_called_on_the_runners_loop() -> None:
    store = Sink(thread_safe=False)
    recording = Recording("ro", "at", store)
    await asyncio.to_thread(recording.add, make_span("a"))
    await recording.flush()
    assert store.names == ["a"]
    assert store.threads == {threading.current_thread().name}


async def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "BATCH_SPANS", 4)
    monkeypatch.setattr(recording_module, "BATCH_BYTES", 10_000)
    store = Sink()
    recording = Recording("ro", "at", store)
    for index in range(10):
        recording.add(make_span(str(index)))
    for index in range(3):
        recording.add(make_span(f"big{index}", text="x" * 9_000))
    await recording.flush()
    sizes = [len(batch) for batch in store.batches]
    assert sum(sizes) == 13
    assert max(sizes) <= 4
    assert all(sum(span.name.startswith("big") for span in batch) <= 2 for batch in store.batches)
    assert store.names == [*map(str, range(10)), "big0", "big1", "big2"]


async def test_a_thread_that_is_faster_than_the_store_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "BACKLOG_BYTES", 5_000)
    monkeypatch.setattr(recording_module, "BACKLOG_WAIT_SECONDS", 0.2)
    store = Sink()
    store.fail = ConnectionError("away")
    recording = Recording("ro", "at", store)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.to_thread(lambda: [recording.add(make_span(str(index), text="x" * 2_000)) for index in range(4)])
    assert loop.time() - began > 0.3
    store.fail = None
    began = loop.time()
    await recording.flush()
    await asyncio.to_thread(recording.add, make_span("last"))
    await recording.flush()
    assert store.names == ["0", "1", "2", "3", "last"]


async def test_flush_reports_what_the_store_answered_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Sink()
    tracer = OtelTracer()
    tracer.init_worker(0, store)
    store.fail = ConnectionError("away")
    async with tracer.trace_context(rollout_id="ro", attempt_id="at"):
        emit_reward(1)
    with pytest.raises(ConnectionError, match="away"):
        await tracer.flush()
    store.fail = None
    await tracer.flush()
    assert store.names == ["agentlightning.annotation"]


async def test_the_background_does_not_try_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording_module, "LINGER_SECONDS", 0.01)
    store = Sink()
    store.fail = ConnectionError("away")
    recording = Recording("ro", "at", store)
    recording.add(make_span("a"))
    await asyncio.sleep(0.5)
    assert caplog.text.count("could not be sent yet") == recording_module.MOST_FAILURES
    store.fail = None
    recording.add(make_span("b"))
    await asyncio.sleep(0.3)
    assert store.names == ["a", "b"]


async def test_one_refused_span_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    store = Sink()
    store.poison = "bad"
    recording = Recording("ro", "at", store)
    for name in ("a", "bad", "b"):
        recording.add(make_span(name))
    with pytest.raises(ValueError, match="poisoned batch of 1"):
        await recording.flush()
    assert store.names == ["a", "b"]
    assert "refused span 'bad'" in caplog.text


async def test_a_span_is_recorded_once() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        emit_reward(1)
        assert tracer.record_spans(tracer.get_last_trace())
        assert tracer.record_spans([make_span("other")])
    assert [span.name for span in tracer.get_last_trace()] == ["agentlightning.annotation", "other"]


def test_tracers_travel_without_their_provider() -> None:
    tracer = OtelTracer()
    assert tracer.tracer_provider is tracer.tracer_provider
    copy = pickle.loads(pickle.dumps(tracer))
    assert copy.tracer_provider is not tracer.tracer_provider


def test_the_base_class_records_nothing_by_itself() -> None:
    tracer = Tracer()
    assert not tracer.record_spans([])
    with pytest.raises(NotImplementedError):
        tracer.get_last_trace()

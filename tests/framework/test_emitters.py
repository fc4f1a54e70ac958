"""Emitters: what an agent says about its work, recorded, stored and read back."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import pydantic
import pytest
from opentelemetry import trace as trace_api

from agentlightning import InMemoryLightningStore, LitAgent, LitAgentRunner, OtelTracer, Span, find_final_reward
from agentlightning.emitter import (
    OperationContext,
    emit_annotation,
    emit_exception,
    emit_message,
    emit_object,
    emit_reward,
    encode_object,
    get_message_value,
    get_object_value,
    operation,
)
from agentlightning.tracer import DummyTracer
from agentlightning.types import SpanCoreFields
from agentlightning.utils.otel import extract_tags_from_attributes, make_tag_attributes


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Point(pydantic.BaseModel):
    x: int
    label: str | None = None


@dataclasses.dataclass
class Answer:
    text: str
    points: list[Point]


class Color(Enum):
    RED = "red"


def itself() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    return loop


def old(name: str, **attributes: Any) -> Span:
    return Span.from_attributes(name=name, attributes=attributes)


async def trace_of(agent: Callable[[], Any]) -> list[Span]:
    """Runs an agent in a rollout and returns its spans as the store has them."""
    store = InMemoryLightningStore()
    rollout = await store.start_rollout(input=None)
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    tracer = OtelTracer()
    with tracer.lifespan(store):
        async with tracer.trace_context(**ids):
            result = agent()
            if asyncio.iscoroutine(result):
                await result
        await tracer.flush()
    return list(await store.query_spans(rollout.rollout_id))


async def test_what_an_agent_emits_is_read_back_from_the_store() -> None:
    def agent() -> None:
        emit_message("hello", {"step": {"number": 1}})
        emit_object({"answer": [1, {"deep": None}]})
        emit_exception(ValueError("oops"))
        emit_annotation({**make_tag_attributes(["easy"]), "cost": {"usd": 0.5}})

    message, thing, exception, annotation = await trace_of(agent)
    assert (message.name, get_message_value(message)) == ("agentlightning.message", "hello")
    assert message.attributes["step.number"] == 1
    assert (thing.name, get_object_value(thing)) == ("agentlightning.object", {"answer": [1, {"deep": None}]})
    assert (exception.name, exception.status.status_code) == ("agentlightning.exception", "ERROR")
    assert exception.status.description == "ValueError: oops"
    assert (annotation.name, annotation.attributes["cost.usd"]) == ("agentlightning.annotation", 0.5)
    assert extract_tags_from_attributes(annotation.attributes) == ["easy"]


def test_without_propagation_a_span_is_only_returned() -> None:
    for core in (
        emit_message("x", propagate=False),
        emit_object(1, propagate=False),
        emit_exception(ValueError(), propagate=False),
        emit_annotation({}, propagate=False),
    ):
        assert isinstance(core, SpanCoreFields)
        assert core.start_time == core.end_time is not None


async def test_without_propagation_a_running_trace_is_left_alone() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        emit_message("x", propagate=False)
        with operation(propagate=False):
            assert not trace_api.get_current_span().get_span_context().is_valid
    assert tracer.get_last_trace() == []


def test_emitters_outside_of_a_rollout_say_so() -> None:
    for emit in (lambda: emit_message("x"), lambda: emit_object(1), lambda: emit_exception(ValueError())):
        with pytest.raises(RuntimeError, match="no tracer is active"):
            emit()
    with pytest.raises(RuntimeError, match="no tracer is active"), operation(name="x"):
        pass


def test_messages_are_texts() -> None:
    assert emit_message("héllo", propagate=False).attributes == {"agentlightning.message.body": "héllo"}
    with pytest.raises(TypeError, match="must be a string, not a list; emit_object"):
        emit_message(["x"], propagate=False)  # type: ignore[arg-type]


def test_messages_of_all_releases_are_read() -> None:
    assert get_message_value(old("anything", **{"agentlightning.message.body": "new"})) == "new"
    assert get_message_value(old("agentlightning.message", message="old")) == "old"
    assert get_message_value(old("anything", message="foreign")) is None
    assert get_message_value(old("agentlightning.message")) is None


@pytest.mark.parametrize(
    ("given", "kind", "literal"),
    [
        ("text", "str", "text"),
        ("", "str", ""),
        (3, "int", "3"),
        (2**70, "int", str(2**70)),
        (0.1, "float", "0.1"),
        (-math.inf, "float", "-inf"),
        (True, "bool", "True"),
        (False, "bool", "False"),
        (b"ab", "bytes", "YWI="),
    ],
)
def test_plain_objects_are_literals(given: Any, kind: str, literal: str) -> None:
    core = emit_object(given, propagate=False)
    assert core.attributes == {"agentlightning.object.type": kind, "agentlightning.object.literal": literal}
    back = get_object_value(Span.from_core_fields(core))
    assert (back, type(back)) == (given, type(given))


@pytest.mark.parametrize(
    ("given", "kind", "back"),
    [
        (None, "NoneType", None),
        ([1, "a", None], "list", [1, "a", None]),
        ({"a": (1, 2)}, "dict", {"a": [1, 2]}),
        (Point(x=1), f"{__name__}.Point", {"x": 1, "label": None}),
        (
            Answer("yes", [Point(x=2, label="b")]),
            f"{__name__}.Answer",
            {"text": "yes", "points": [{"x": 2, "label": "b"}]},
        ),
        (
            {"raw": b"\xff", "when": datetime(2026, 1, 2, tzinfo=timezone.utc)},
            "dict",
            {"raw": "/w==", "when": "2026-01-02T00:00:00Z"},
        ),
        (array("i", [1, 2]), "array.array", [1, 2]),
        (Color.RED, f"{__name__}.Color", "red"),
        (Path("/tmp/x"), f"{type(Path()).__module__}.{type(Path()).__qualname__}", "/tmp/x"),
        (["\ud800", "x"], "list", ["\ud800", "x"]),
    ],
)
def test_other_objects_are_json(given: Any, kind: str, back: Any) -> None:
    core = emit_object(given, propagate=False)
    assert core.attributes["agentlightning.object.type"] == kind
    assert set(core.attributes) == {"agentlightning.object.type", "agentlightning.object.json"}
    assert get_object_value(Span.from_core_fields(core)) == back


@pytest.mark.parametrize("given", [object(), {"a": Unprintable()}, itself(), iter([1]), object, {("a", "b"): 1}])
def test_objects_that_json_cannot_express_are_refused(given: Any) -> None:
    with pytest.raises(RuntimeError, match=r"the object cannot be emitted: a \S+ cannot be written as JSON"):
        encode_object(given)


def test_objects_of_all_releases_are_read() -> None:
    assert get_object_value(old("agentlightning.object", object='{"a": 1}')) == {"a": 1}
    assert get_object_value(old("anything", object='{"a": 1}')) is None
    assert get_object_value(old("anything", **{"agentlightning.object.literal": "1"})) == "1"
    with pytest.raises(ValueError, match="Expecting"):
        get_object_value(old("agentlightning.object", object="{"))


def test_large_objects_are_kept_whole() -> None:
    tokens = list(range(100_000))
    assert get_object_value(Span.from_core_fields(emit_object(tokens, propagate=False))) == tokens
    assert len(str(get_message_value(Span.from_core_fields(emit_message("x" * 10**6, propagate=False))))) == 10**6


def test_exceptions_keep_type_message_and_stack() -> None:
    try:
        raise pydantic.errors.PydanticUserError("bad", code=None)
    except pydantic.errors.PydanticUserError as error:
        core = emit_exception(error, {"tool": {"name": "search"}}, propagate=False)
    assert core.attributes["exception.type"] == "pydantic.errors.PydanticUserError"
    assert core.attributes["exception.message"] == "bad"
    assert "test_exceptions_keep_type_message_and_stack" in str(core.attributes["exception.stacktrace"])
    assert core.attributes["tool.name"] == "search"
    never_raised = emit_exception(KeyError("x"), propagate=False)
    assert never_raised.attributes["exception.stacktrace"] == "KeyError: 'x'\n"
    with pytest.raises(TypeError, match="not a str"):
        emit_exception("oops", propagate=False)  # type: ignore[arg-type]


async def test_nothing_that_an_agent_notes_breaks_its_rollout() -> None:
    items = iter([1, 2])

    def agent() -> None:
        emit_message("half a \ud83d pair")
        emit_annotation(
            {
                "huge": 2**80,
                "unprintable": Unprintable(),
                "iterator": items,
                "loop": itself(),
                "nan": math.nan,
                "mixed": [1, None, {"a": b"\xff"}],
                "model": Point(x=1),
                1: {("a", "b"): "odd names"},
                "odd \ud83d": "name",
            }
        )

    message, annotation = await trace_of(agent)
    assert get_message_value(message) == "half a \\ud83d pair"
    attributes = annotation.attributes
    assert attributes["huge"] == str(2**80)
    assert attributes["unprintable"] == f'"<{__name__}.Unprintable>"'
    assert list(items) == [1, 2]
    assert "self" in str(attributes["loop.self"])
    assert math.isnan(attributes["nan"])  # type: ignore[arg-type]
    assert (attributes["mixed.0"], attributes["mixed.1"], attributes["mixed.2.a"]) == (1, "null", '"/w=="')
    assert attributes["model"] == '{"x": 1, "label": null}'
    assert attributes["1.('a', 'b')"] == "odd names"
    assert attributes["odd \\ud83d"] == "name"


async def test_every_emitted_span_is_logged_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def agent() -> None:
        emit_reward(1.0)
        emit_message("hi")
        emit_object([1])
        emit_exception(ValueError("oops"))
        emit_annotation({"a": 1})
        with operation(name="step"):
            pass

    caplog.set_level(logging.INFO, "agentlightning.emitter")
    await trace_of(agent)
    assert not [line for line in caplog.messages if line.startswith("emitted ")]
    monkeypatch.setenv("AGL_EMITTER_DEBUG", "1")
    await trace_of(agent)
    emitted = [line for line in caplog.messages if line.startswith("emitted ")]
    assert [line.split()[1] for line in emitted] == [
        "agentlightning.annotation",
        "agentlightning.message",
        "agentlightning.object",
        "agentlightning.exception",
        "agentlightning.annotation",
        "agentlightning.operation",
    ]
    assert "'agentlightning.operation.name': 'step'" in emitted[-1]


async def test_an_operation_covers_its_block() -> None:
    def agent() -> None:
        with operation(name="search", model={"size": 7}) as op:
            op.set_input("query", 3, limit=[1, 2])
            emit_message("inside")
            op.set_output({"hits": [{"id": 1}], "scores": [1, 0.5]})
        assert op.span().attributes["agentlightning.operation.output.hits.0.id"] == 1

    inside, search = await trace_of(agent)
    assert (search.name, search.status.status_code) == ("agentlightning.operation", "OK")
    assert inside.parent_id == search.span_id
    assert search.attributes == {
        "agentlightning.operation.name": "search",
        "model.size": 7,
        "agentlightning.operation.input.args.0": "query",
        "agentlightning.operation.input.args.1": 3,
        "agentlightning.operation.input.limit": [1, 2],
        "agentlightning.operation.output.hits.0.id": 1,
        "agentlightning.operation.output.scores": [1.0, 0.5],
    }


def test_an_operation_without_a_name_has_none() -> None:
    with operation(propagate=False) as op:
        op.set_output(None)
    assert op.span().attributes == {"agentlightning.operation.output": "null"}


async def test_an_operation_that_fails_says_so_and_lets_the_exception_pass() -> None:
    @operation
    def divide(a: int, b: int) -> float:
        return a / b

    def agent() -> None:
        with pytest.raises(ZeroDivisionError):
            divide(1, 0)

    (span,) = await trace_of(agent)
    assert (span.status.status_code, span.status.description) == ("ERROR", "ZeroDivisionError: division by zero")
    assert [event.name for event in span.events] == ["exception"]
    assert span.attributes["agentlightning.operation.input.b"] == 0
    assert "agentlightning.operation.output" not in span.attributes


def test_an_operation_is_used_inside_its_block() -> None:
    op = operation(propagate=False)
    with pytest.raises(RuntimeError, match="has been left"):
        op.span()
    with pytest.raises(RuntimeError, match="only inside its block"):
        op.set_input(1)
    with op:
        with pytest.raises(RuntimeError, match="has been left"):
            op.span()
        with pytest.raises(RuntimeError, match="open already"):
            op.__enter__()
    with pytest.raises(RuntimeError, match="only inside its block"):
        op.set_output(1)
    with op:
        pass
    assert op.span().end_time is not None
    lost = operation()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no tracer is active"):
            lost.__enter__()


async def test_decorated_functions_note_arguments_by_name() -> None:
    @operation(name="named", kind="tool")
    def call(a: Any, b: int = 2, *rest: Any, key: str = "k", **more: Any) -> dict[str, Any]:
        """Does it."""
        return {"sum": a + b}

    class Tool:
        @operation
        def run(self, args: str) -> str:
            return args.upper()

        @classmethod
        @operation
        def make(cls, text: str) -> str:
            return text

    def agent() -> None:
        assert call(1, 5, [1], [2], more=[{"deep": 1}]) == {"sum": 6}
        assert call(1) == {"sum": 3}
        assert Tool().run("x") == "X"
        assert Tool.make("y") == "y"
        with pytest.raises(TypeError, match="missing a required argument: 'a'"):
            call()

    assert (call.__name__, call.__doc__) == ("call", "Does it.")
    full, short, method, class_method, misfit = await trace_of(agent)
    prefix = "agentlightning.operation.input."

    def inputs(span: Span) -> dict[str, Any]:
        return {key[len(prefix) :]: value for key, value in span.attributes.items() if key.startswith(prefix)}

    assert inputs(full) == {"a": 1, "b": 5, "rest.0": [1], "rest.1": [2], "key": "k", "more.more.0.deep": 1}
    assert full.attributes["agentlightning.operation.name"] == "named"
    assert full.attributes["kind"] == "tool"
    assert full.attributes["agentlightning.operation.output.sum"] == 6
    assert inputs(short) == {"a": 1, "b": 2, "key": "k"}
    assert inputs(method) == {"args": "x"}
    assert method.attributes["agentlightning.operation.name"] == "run"
    assert inputs(class_method) == {"text": "y"}
    assert misfit.status.status_code == "ERROR"


async def test_async_functions_keep_their_spans_apart() -> None:
    @operation
    async def think(number: int) -> int:
        await asyncio.sleep(0)
        emit_message(str(number))
        await asyncio.sleep(0)
        return number

    async def agent() -> None:
        assert await asyncio.gather(*(think(number) for number in range(8))) == list(range(8))

    spans = await trace_of(agent)
    operations = {span.span_id: span for span in spans if span.name == "agentlightning.operation"}
    messages = [span for span in spans if span.name == "agentlightning.message"]
    assert (len(operations), len(messages)) == (8, 8)
    for message in messages:
        parent = operations[str(message.parent_id)]
        assert get_message_value(message) == str(parent.attributes["agentlightning.operation.input.number"])
        assert parent.attributes["agentlightning.operation.output"] == int(str(get_message_value(message)))


async def test_generators_are_covered_while_they_run() -> None:
    @operation
    def count(limit: int) -> Iterator[int]:
        for number in range(limit):
            emit_message(f"inside {number}")
            yield number
        return "done"

    def agent() -> None:
        for number in count(2):
            emit_message(f"outside {number}")

    spans = await trace_of(agent)
    covering = spans[-1]
    assert covering.attributes["agentlightning.operation.output"] == [0, 1]
    assert [(get_message_value(span), span.parent_id) for span in spans[:-1]] == [
        ("inside 0", covering.span_id),
        ("outside 0", None),
        ("inside 1", covering.span_id),
        ("outside 1", None),
    ]


async def test_async_generators_are_covered_while_they_run() -> None:
    @operation
    async def count(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            await asyncio.sleep(0.001)
            emit_message(f"inside {number}")
            yield number

    async def agent() -> None:
        async for number in count(2):
            emit_message(f"outside {number}")

    spans = await trace_of(agent)
    covering = spans[-1]
    assert covering.attributes["agentlightning.operation.output"] == [0, 1]
    assert [(get_message_value(span), span.parent_id) for span in spans[:-1]] == [
        ("inside 0", covering.span_id),
        ("outside 0", None),
        ("inside 1", covering.span_id),
        ("outside 1", None),
    ]


def test_generators_stay_generators() -> None:
    @operation(propagate=False)
    def echo() -> Any:
        received = []
        try:
            while True:
                try:
                    received.append((yield len(received)))
                except KeyError:
                    received.append("caught")
        finally:
            closed.append(received)

    closed: list[Any] = []
    generator = echo()
    assert next(generator) == 0
    assert generator.send("a") == 1
    assert generator.throw(KeyError("x")) == 2
    generator.close()
    assert closed == [["a", "caught"]]

    @operation(propagate=False)
    def returning() -> Any:
        yield 1
        return "result"

    def outer() -> Any:
        return (yield from returning())

    generator = outer()
    assert next(generator) == 1
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "result"


async def test_async_generators_stay_async_generators() -> None:
    @operation(propagate=False)
    async def echo() -> Any:
        received = []
        try:
            while True:
                try:
                    received.append((yield len(received)))
                except KeyError:
                    received.append("caught")
        finally:
            await asyncio.sleep(0)
            closed.append(received)

    closed: list[Any] = []
    generator = echo()
    assert await generator.asend(None) == 0
    assert await generator.asend("a") == 1
    assert await generator.athrow(KeyError("x")) == 2
    await generator.aclose()
    assert closed == [["a", "caught"]]


async def test_a_generator_that_is_left_early_has_not_failed_and_one_that_raises_has() -> None:
    @operation
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no more")

    @operation
    async def numbers_async() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no more")

    async def agent() -> None:
        early = numbers()
        assert next(early) == 1
        early.close()
        with pytest.raises(ValueError, match="no more"):
            list(numbers())
        early_async: Any = numbers_async()
        assert await early_async.asend(None) == 1
        await early_async.aclose()
        with pytest.raises(ValueError, match="no more"):
            async for _ in numbers_async():
                pass

    spans = await trace_of(agent)
    outcomes = [(span.status.status_code, span.attributes["agentlightning.operation.output"]) for span in spans]
    assert outcomes == [("OK", [1]), ("ERROR", [1, 2]), ("OK", [1]), ("ERROR", [1])]


async def test_an_async_generator_hears_of_the_cancellation_of_its_consumer() -> None:
    heard = []

    @operation
    async def forever() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    started = asyncio.Event()

    async def consume() -> None:
        async for _ in forever():
            started.set()

    async def agent() -> None:
        task = asyncio.create_task(consume())
        await started.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (span,) = await trace_of(agent)
    assert heard == ["cancelled"]
    assert span.status.status_code == "ERROR"


async def test_operations_work_with_any_tracer() -> None:
    tracer = DummyTracer()
    async with tracer.trace_context():
        with operation(name="outer"):
            emit_message("inner")
    inner, outer = tracer.get_last_trace()
    assert inner.parent_id == outer.span_id


def test_an_operation_context_can_be_made_by_hand() -> None:
    with OperationContext("x", {"a": {"b": 1}}, propagate=False) as op:
        pass
    assert op.span().attributes == {"agentlightning.operation.name": "x", "a.b": 1}


async def test_a_reward_that_is_returned_arrives_whichever_tracer_runs() -> None:
    class Agent(LitAgent[Any]):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
            emit_message("inside")
            return 0.5

    for tracer, names in (
        (DummyTracer(), ["agentlightning.annotation"]),
        (OtelTracer(), ["agentlightning.message", "agentlightning.annotation"]),
    ):
        store = InMemoryLightningStore()
        runner: LitAgentRunner[Any] = LitAgentRunner(tracer)
        with runner.run_context(agent=Agent(), store=store):
            rollout = await runner.step({}, resources={})
        spans = await store.query_spans(rollout.rollout_id)
        assert ([span.name for span in spans], find_final_reward(spans)) == (names, 0.5)

"""What an agent may return, and what becomes of it."""

from __future__ import annotations

import dataclasses
import fractions
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace as trace_api
from pydantic import BaseModel
from runners import Async, Body, Sync, finish, make_runner, ready, reward_of, run_one, running

from agentlightning import (
    Attempt,
    LightningStore,
    Span,
    SpanCoreFields,
    TraceStatus,
    emit_reward,
)
from agentlightning.emitter.object import get_object_value


@pytest.fixture
async def store() -> LightningStore:
    return await ready()


@pytest.mark.parametrize(
    ("result", "reward"), [(0.5, 0.5), (1, 1.0), (True, 1.0), (0, 0.0), (False, 0.0), (None, None)]
)
@pytest.mark.parametrize("kind", [Sync, Async])
async def test_a_number_is_the_reward_and_none_is_none(
    store: LightningStore, kind: Any, result: Any, reward: float | None
) -> None:
    async def answer() -> Any:
        return result

    body: Body = (lambda *_: result) if kind is Sync else (lambda *_: answer())
    attempt = await run_one(kind(body), store)
    assert attempt.status == "succeeded"
    assert attempt.failure is None
    assert attempt.worker_id == "Worker-3"
    assert await reward_of(store, attempt) == reward


def core_span(name: str) -> SpanCoreFields:
    return SpanCoreFields(
        name=name, status=TraceStatus(status_code="OK"), attributes={"a": 1}, start_time=1.75e9, end_time=1.75e9
    )


def recorded_span(name: str) -> Any:
    span = trace_api.get_tracer("test").start_span(name)
    span.end()
    return span._readable_span()  # type: ignore[attr-defined]  # noqa: SLF001


@pytest.mark.parametrize(
    "make",
    [
        lambda name, rollout: Span.from_attributes(attributes={"a": 1}, name=name),
        lambda name, rollout: Span.from_attributes(
            attributes={}, name=name, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id
        ),
        lambda name, rollout: core_span(name),
        lambda name, rollout: recorded_span(name),
    ],
)
async def test_a_list_of_spans_is_stored_once(store: LightningStore, make: Any) -> None:
    attempt = await run_one(Sync(lambda _task, _resources, rollout: [make(name, rollout) for name in "ab"]), store)
    assert attempt.status == "succeeded"
    spans = await store.query_spans(attempt.rollout_id, attempt.attempt_id)
    assert sorted(span.name for span in spans) == ["a", "b"]
    assert [span.sequence_id for span in spans] == [1, 2]


async def test_an_empty_list_succeeds_with_a_warning(store: LightningStore, caplog: pytest.LogCaptureFixture) -> None:
    assert (await run_one(Sync(lambda *_: []), store)).status == "succeeded"
    assert "returned an empty list" in caplog.text


class Scalar:
    """A number as array libraries have them: an object without dimensions."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("result", "reward"), [(fractions.Fraction(1, 4), 0.25), (Scalar(0.5), 0.5), (Scalar(True), 1.0)]
)
async def test_numbers_of_other_libraries_are_rewards_too(store: LightningStore, result: Any, reward: float) -> None:
    attempt = await run_one(Sync(lambda *_: result), store)
    assert await reward_of(store, attempt) == reward


class Choice(BaseModel):
    role: str
    content: str


class Completion(BaseModel):
    id: str
    choices: list[Choice]


@dataclasses.dataclass
class Answer:
    text: str
    score: float


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        ("text", "text"),
        ({"answer": 42}, {"answer": 42}),
        ([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
        ([1, 2], [1, 2]),
        (("text", 0.5), ["text", 0.5]),
        (
            Completion(id="c-1", choices=[Choice(role="assistant", content="Hello")]),
            {"id": "c-1", "choices": [{"role": "assistant", "content": "Hello"}]},
        ),
        (Answer("yes", 0.5), {"text": "yes", "score": 0.5}),
    ],
)
async def test_anything_else_is_kept_as_an_object(store: LightningStore, result: Any, kept: Any) -> None:
    attempt = await run_one(Sync(lambda *_: result), store)
    assert attempt.status == "succeeded"
    assert await objects_of(store, attempt) == [kept]
    assert await reward_of(store, attempt) is None


async def objects_of(store: LightningStore, attempt: Attempt) -> list[Any]:
    return [get_object_value(span) for span in await store.query_spans(attempt.rollout_id, attempt.attempt_id)]


class Opaque:
    """What JSON cannot express."""

    def __repr__(self) -> str:
        return "<opaque>"


class Broken:
    """What cannot even say what it is."""

    def __repr__(self) -> str:
        raise ValueError("in repr")


@pytest.mark.parametrize(
    ("result", "kept"),
    [(Opaque(), "<opaque>"), ({"handle": Opaque()}, "{'handle': <opaque>}"), (Broken(), "Broken object at")],
)
async def test_what_json_cannot_express_is_kept_as_text(store: LightningStore, result: Any, kept: str) -> None:
    attempt = await run_one(Sync(lambda *_: result), store)
    assert attempt.status == "succeeded"
    (text,) = await objects_of(store, attempt)
    assert kept in text


async def test_text_that_is_not_unicode_is_kept(store: LightningStore) -> None:
    attempt = await run_one(Sync(lambda *_: "half a pair: \ud800"), store)
    assert attempt.status == "succeeded"
    (text,) = await objects_of(store, attempt)
    assert text.startswith("half a pair: ")


async def test_an_object_joins_the_trace_of_its_attempt(store: LightningStore) -> None:
    def agent(*_: Any) -> str:
        emit_reward(0.5)
        return "text"

    attempt = await run_one(Sync(agent), store)
    spans = await store.query_spans(attempt.rollout_id, attempt.attempt_id)
    assert [span.name for span in spans] == ["agentlightning.annotation", "agentlightning.object"]
    assert spans[0].trace_id == spans[1].trace_id


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


async def test_a_runner_warns_once_that_there_is_no_reward(
    store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Sync(lambda task, *_: task), store):
        await finish(store, *[await store.enqueue_rollout(result) for result in ("a", {"b": 1}, 1.0)])
    (warning,) = warnings_of(caplog)
    assert warning.startswith("the agent returned a str and no reward")


async def test_there_is_no_such_warning_where_a_reward_was_emitted(
    store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    def agent(*_: Any) -> str:
        emit_reward(0.5)
        return "text"

    assert await reward_of(store, await run_one(Sync(agent), store)) == 0.5
    assert await reward_of(store, await run_one(Sync(lambda *_: None), store)) is None
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([core_span("a"), 1], "ValueError: the agent returned a list that mixes SpanCoreFields, int"),
        (
            [core_span("a"), Span.from_attributes(attributes={})],
            "ValueError: the agent returned a list that mixes Span, SpanCoreFields",
        ),
        (
            [Span.from_attributes(attributes={}, rollout_id="other", attempt_id="at")],
            "ValueError: the agent returned span 'agentlightning.virtual' of rollout other",
        ),
    ],
)
async def test_spans_that_do_not_belong_together_fail_the_attempt(
    store: LightningStore, result: Any, message: str
) -> None:
    await fails_with(message, Sync(lambda *_: result), store)


async def fails_with(message: str, agent: Any, store: LightningStore) -> None:
    attempt = await run_one(agent, store)
    assert attempt.status == "failed"
    assert attempt.failure is not None
    assert attempt.failure.kind == "agent_error"
    assert attempt.failure.message.startswith(message)


async def test_an_agent_whose_code_has_not_run_has_not_succeeded(store: LightningStore) -> None:
    async def misnamed(*_: Any) -> float:
        return 1.0

    def generator(*_: Any) -> Any:
        yield 1.0

    async def stream(*_: Any) -> AsyncIterator[float]:
        yield 1.0

    for body, kind in ((misnamed, "coroutine"), (generator, "generator"), (stream, "async_generator")):
        await fails_with(f"TypeError: the agent returned a {kind}, and its code has not run", Sync(body), store)


async def test_step_returns_a_rollout_whose_result_is_an_object(store: LightningStore) -> None:
    runner = make_runner()
    with runner.run_context(agent=Sync(lambda *_: json.dumps([1])), store=store):
        finished = await runner.step(None)
    assert finished.status == "succeeded"

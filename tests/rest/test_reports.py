"""What a posted rollout becomes in the store, where everything that reads spans finds it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, Status, StatusCode
from rest_calls import Rest

from agentlightning.adapter import TracerTraceToTriplet
from agentlightning.emitter import find_final_reward, get_message_value, get_object_value, get_reward_value
from agentlightning.rest.trace_json import span_of_trace
from agentlightning.rest.translate import MODEL_CALL, report_in, report_text, spans_of_report
from agentlightning.types import Attempt, RolloutLegacy, Span

ATTEMPT = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=1_700_000_000.0)


def spans_of(**fields: Any) -> list[Span]:
    """The spans of a report."""
    report = RolloutLegacy.model_validate({"rollout_id": "ro-1", **fields})
    return spans_of_report(report, report_text(report), ATTEMPT)


def triplet(number: int, reward: float | None = None) -> dict[str, Any]:
    """A model call as clients report it."""
    return {
        "prompt": {"token_ids": [number, 1, 2]},
        "response": {"token_ids": [number, 3]},
        "reward": reward,
        "metadata": {"response_id": f"chatcmpl-{number}", "agent_name": "writer"},
    }


def recorded() -> list[dict[str, Any]]:
    """Spans as OpenTelemetry's SDK writes them: a model call and its reward below a root."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "agent"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("agent")
    with tracer.start_as_current_span("root") as root:
        with tracer.start_as_current_span("openai.chat.completion", links=[Link(root.get_span_context())]) as call:
            call.set_attributes({"gen_ai.response.id": "chatcmpl-0", "prompt_token_ids": [1, 2], "ok": True})
            call.add_event("first token", {"index": 0})
            call.set_status(Status(StatusCode.ERROR, "cut off"))
        with tracer.start_as_current_span("agentlightning.reward", attributes={"reward": 0.25}):
            pass
    return [json.loads(span.to_json()) for span in exporter.get_finished_spans()]


async def test_everything_that_is_posted_arrives_and_comes_back_as_it_was(rest: Rest) -> None:
    await rest.store.enqueue_rollout("x", metadata={"of": "the task"})
    task = await rest.claim()
    report = {
        "rollout_id": task["rollout_id"],
        "task": task,
        "final_reward": 0.75,
        "triplets": [triplet(0, 0.25), triplet(1)],
        "trace": recorded(),
        "logs": ["first line", "second line \u4f60"],
        "metadata": {"seconds": 1.5, "nested": {"deep": [None, 10**30]}},
    }
    assert (await rest.post(report)).status == 200
    spans = await rest.store.query_spans(task["rollout_id"], "latest")
    read = report_in(spans)
    assert read is not None
    assert read.model_dump() == report
    assert find_final_reward(spans) == 0.75
    assert [name for name in map(get_message_value, spans) if name] == ["first line\nsecond line \u4f60"]
    assert [value for value in map(get_object_value, spans) if value] == [report]
    attempt = await rest.store.get_latest_attempt(task["rollout_id"])
    assert attempt is not None
    assert (attempt.status, attempt.metadata) == ("succeeded", report["metadata"])


def test_triplets_are_model_calls_with_their_rewards() -> None:
    spans = spans_of(triplets=[triplet(0, 0.5), triplet(1), triplet(2, 1.0)], final_reward=1.0)
    calls = [span for span in spans if span.name == MODEL_CALL]
    assert [span.attributes["prompt_token_ids"] for span in calls] == [[0, 1, 2], [1, 1, 2], [2, 1, 2]]
    assert [span.attributes["response_token_ids"] for span in calls] == [[0, 3], [1, 3], [2, 3]]
    assert [span.attributes["gen_ai.response.id"] for span in calls] == ["chatcmpl-0", "chatcmpl-1", "chatcmpl-2"]
    assert [span.attributes["agent.name"] for span in calls] == ["writer"] * 3
    assert [get_reward_value(span) for span in spans] == [None, 0.5, None, None, 1.0, None]
    # Adapters go by time: each call ends before its reward, and that comes before the next call.
    times = [(span.start_time or 0.0, span.end_time or 0.0) for span in spans]
    assert all(start < end for start, end in times)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("rewards", "final_reward", "seen"),
    [
        ([0.5, None, 1.0], 1.0, [0.5, None, 1.0]),
        ([None, None], 1.0, [None, 1.0]),
        ([None, 0.5], 1.0, [None, 0.5]),
        ([0.25, None], None, [0.25, None]),
    ],
)
def test_adapters_make_the_posted_triplets_again(
    rewards: list[float | None], final_reward: float | None, seen: list[float | None]
) -> None:
    posted = [triplet(number, reward) for number, reward in enumerate(rewards)]
    made = TracerTraceToTriplet().adapt(spans_of(triplets=posted, final_reward=final_reward))
    assert [each.reward for each in made] == seen
    for each, original in zip(made, posted, strict=True):
        assert each.prompt["token_ids"] == original["prompt"]["token_ids"]
        assert each.response["token_ids"] == original["response"]["token_ids"]
        assert each.metadata["response_id"] == original["metadata"]["response_id"]
        assert each.metadata["agent_name"] == "writer"


def test_triplets_of_text_and_of_messages_are_chats() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    calls = spans_of(triplets=[{"prompt": "Hi", "response": "Hello"}, {"prompt": messages, "response": {"text": 1}}])
    assert calls[0].attributes == {
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Hi",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "Hello",
    }
    assert calls[1].attributes["gen_ai.prompt.0.role"] == "system"
    assert calls[1].attributes["gen_ai.prompt.1.content"] == "Hi"
    assert calls[1].attributes["gen_ai.completion.0.content"] == '{"text": 1}'


def test_model_calls_of_the_trace_are_not_told_a_second_time_as_triplets() -> None:
    spans = spans_of(trace=recorded(), triplets=[triplet(0, 0.25)], final_reward=0.25)
    assert [span.name for span in spans].count(MODEL_CALL) == 1
    assert [get_reward_value(span) for span in spans if get_reward_value(span) is not None] == [0.25]


@pytest.mark.parametrize(
    ("rewards", "final_reward", "is_after"),
    [([None, None], 1.0, True), ([0.5, None], 1.0, True), ([None, 0.5], 1.0, False), ([], 1.0, True)],
)
def test_the_final_reward_is_the_last_one_and_no_call_gets_it_that_has_one(
    rewards: list[float | None], final_reward: float, is_after: bool
) -> None:
    spans = spans_of(
        triplets=[triplet(number, reward) for number, reward in enumerate(rewards)], final_reward=final_reward
    )
    assert find_final_reward(spans) == final_reward
    last = spans[-1]
    others = [span.end_time or 0.0 for span in spans[:-1]]
    assert get_reward_value(last) == final_reward
    assert ((last.start_time or 0.0) > max(others)) is is_after
    assert is_after or (last.end_time or 0.0) < min(span.start_time or 0.0 for span in spans[:-1])


def test_without_a_final_reward_none_is_made_up() -> None:
    assert find_final_reward(spans_of()) is None
    assert find_final_reward(spans_of(final_reward=0.0)) == 0.0


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000001Z", "2500-01-01T00:00:00Z"])
async def test_a_clock_that_is_far_off_does_no_harm(local_rest: Rest, moment: str) -> None:
    await local_rest.store.enqueue_rollout("x")
    task = await local_rest.claim()
    span = {**recorded()[2], "start_time": moment, "end_time": moment}
    reward = {**recorded()[1], "start_time": moment, "end_time": moment}
    report = {"rollout_id": task["rollout_id"], "trace": [span, reward], "logs": ["a"], "final_reward": 1.0}
    assert (await local_rest.post(report)).status == 200
    spans = await local_rest.store.query_spans(task["rollout_id"])
    assert [stored.name for stored in spans][:2] == ["root", "agentlightning.reward"]
    assert find_final_reward(spans) == 1.0


def test_the_same_report_gives_the_same_spans() -> None:
    fields = {"trace": recorded(), "triplets": [triplet(0, 0.5)], "logs": ["a"], "final_reward": 2.0}
    identities = [(span.trace_id, span.span_id) for span in spans_of(**fields)]
    assert identities == [(span.trace_id, span.span_id) for span in spans_of(**fields)]
    assert len(set(identities)) == len(identities)


def test_a_span_in_the_json_of_opentelemetry_keeps_all_that_it_says() -> None:
    call, reward, root = [span_of_trace(entry, ATTEMPT) for entry in recorded()]
    assert call is not None
    assert reward is not None
    assert root is not None
    assert (call.rollout_id, call.attempt_id, call.sequence_id) == ("ro-1", "at-1", 0)
    assert call.attributes == {"gen_ai.response.id": "chatcmpl-0", "prompt_token_ids": [1, 2], "ok": True}
    assert (call.status.status_code, call.status.description) == ("ERROR", "cut off")
    assert (call.events[0].name, call.events[0].attributes) == ("first token", {"index": 0})
    assert call.links[0].context.span_id == root.span_id == call.parent_id == reward.parent_id
    assert root.parent_id is None
    assert call.resource.attributes["service.name"] == "agent"
    assert call.model_extra is not None
    assert call.model_extra["kind"] == "INTERNAL"
    assert root.start_time is not None
    assert call.end_time is not None
    assert root.start_time <= call.events[0].timestamp <= call.end_time  # type: ignore[operator]
    assert get_reward_value(reward) == 0.25


def test_a_span_as_this_library_dumps_it_is_the_same_span() -> None:
    span = Span.from_attributes(attributes={"a": [1, 2]}, name="mine", start_time=1.5, end_time=2.5)
    read = span_of_trace(span.model_dump(mode="json"), ATTEMPT)
    assert read == span.model_copy(update={"rollout_id": "ro-1", "attempt_id": "at-1"})


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "no context"},
        {"name": "x", "context": "y"},
        {"name": "x", "context": {"trace_id": "0x12", "span_id": "0x34"}},
        {"name": "x", "context": {"trace_id": "z" * 32, "span_id": "2" * 16}},
        {"name": "x", "context": {"trace_id": "1" * 32, "span_id": "2" * 16}, "start_time": "yesterday"},
        {"name": "x", "context": {"trace_id": "1" * 32, "span_id": "2" * 16}, "start_time": "0001-01-01T00:00:00Z"},
        {"name": "x", "context": {"trace_id": "1" * 32, "span_id": "2" * 16}, "attributes": {"a": 10**30}},
        {"name": "x", "context": {"trace_id": "1" * 32, "span_id": "2" * 16}, "parent_id": "0x1"},
    ],
)
def test_what_is_no_span_stays_in_the_report_alone(entry: dict[str, Any]) -> None:
    spans = spans_of(trace=[entry])
    assert len(spans) == 1
    read = report_in(spans)
    assert read is not None
    assert read.trace == [entry]


def test_spans_without_a_report_hold_none() -> None:
    assert report_in([Span.from_attributes(attributes={"a": 1}, name="agentlightning.object")]) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab\x00\u4f60"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab."), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.builds(
            lambda p, r, reward: {"prompt": p, "response": r, "reward": reward},
            JSON,
            JSON,
            st.none() | st.floats(-1, 1),
        ),
        max_size=3,
    ),
    st.none() | st.floats(-1, 1),
    st.lists(st.text("ab\n"), max_size=2),
)
def test_any_report_comes_back(triplets: list[dict[str, Any]], final_reward: float | None, logs: list[str]) -> None:
    report = RolloutLegacy.model_validate(
        {"rollout_id": "ro-1", "triplets": triplets, "final_reward": final_reward, "logs": logs}
    )
    spans = spans_of_report(report, report_text(report), ATTEMPT)
    assert report_in(spans) == report
    if final_reward is not None:
        assert find_final_reward(spans) == final_reward

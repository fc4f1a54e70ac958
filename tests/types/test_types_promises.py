"""The types as agent-lightning 0.2 and 0.3 define them: fields, defaults, words, JSON, copies."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    AttemptFailure,
    AttemptStatus,
    CancelAttempt,
    ClaimedRollouts,
    CommandedWorker,
    CustomResource,
    Dataset,
    Drain,
    EnqueueRolloutRequest,
    Event,
    FilterField,
    Hook,
    LateReport,
    Link,
    NamedResources,
    OtelResource,
    PaginatedResult,
    ParallelWorkerBase,
    PromptTemplate,
    ProxyLLM,
    Resource,
    ResourcesUpdate,
    ResourceUnion,
    Rollout,
    RolloutConfig,
    RolloutLegacy,
    RolloutMode,
    RolloutRawResult,
    RolloutRawResultLegacy,
    RolloutStatus,
    SortOptions,
    Span,
    SpanAttributeNames,
    SpanContext,
    SpanCoreFields,
    SpanNames,
    StatusCode,
    Task,
    TaskIfAny,
    TraceStatus,
    Triplet,
    Worker,
    WorkerStatus,
)
from agentlightning.types.core import GenericResponse

REQUIRED: Any = object()

FIELDS: dict[type[BaseModel], dict[str, Any]] = {
    Attempt: {
        "rollout_id": REQUIRED,
        "attempt_id": REQUIRED,
        "sequence_id": REQUIRED,
        "start_time": REQUIRED,
        "end_time": None,
        "status": "preparing",
        "worker_id": None,
        "last_heartbeat_time": None,
        "metadata": None,
    },
    RolloutConfig: {"timeout_seconds": None, "unresponsive_seconds": None, "max_attempts": 1, "retry_condition": []},
    Rollout: {
        "rollout_id": REQUIRED,
        "input": REQUIRED,
        "start_time": REQUIRED,
        "end_time": None,
        "mode": None,
        "resources_id": None,
        "status": "queuing",
        "config": RolloutConfig(),
        "metadata": None,
    },
    AttemptedRollout: {"attempt": REQUIRED, "input": REQUIRED, "status": "queuing"},
    EnqueueRolloutRequest: {
        "input": REQUIRED,
        "mode": None,
        "resources_id": None,
        "config": None,
        "metadata": None,
    },
    Worker: {
        "worker_id": REQUIRED,
        "status": "unknown",
        "heartbeat_stats": None,
        "last_heartbeat_time": None,
        "last_dequeue_time": None,
        "last_busy_time": None,
        "last_idle_time": None,
        "current_rollout_id": None,
        "current_attempt_id": None,
    },
    Task: {
        "rollout_id": REQUIRED,
        "input": REQUIRED,
        "mode": None,
        "resources_id": None,
        "create_time": None,
        "last_claim_time": None,
        "num_claims": None,
        "metadata": {},
    },
    TaskIfAny: {"is_available": REQUIRED, "task": None},
    RolloutLegacy: {
        "rollout_id": REQUIRED,
        "task": None,
        "final_reward": None,
        "triplets": None,
        "trace": None,
        "logs": None,
        "metadata": {},
    },
    GenericResponse: {"status": "success", "message": None, "data": None},
    Triplet: {"prompt": REQUIRED, "response": REQUIRED, "reward": None, "metadata": {}},
    Resource: {"resource_type": REQUIRED},
    LLM: {"resource_type": "llm", "endpoint": REQUIRED, "model": REQUIRED, "api_key": None, "sampling_parameters": {}},
    ProxyLLM: {"resource_type": "proxy_llm", "endpoint": REQUIRED, "model": REQUIRED},
    PromptTemplate: {"resource_type": "prompt_template", "template": REQUIRED, "engine": REQUIRED},
    ResourcesUpdate: {"resources_id": REQUIRED, "resources": REQUIRED, "version": 1},
    Span: dict.fromkeys(
        (
            *("rollout_id", "attempt_id", "sequence_id", "trace_id", "span_id", "parent_id", "name", "status"),
            *("attributes", "events", "links", "start_time", "end_time", "context", "parent", "resource"),
        ),
        REQUIRED,
    ),
    SpanCoreFields: dict.fromkeys(("name", "status", "attributes", "start_time", "end_time"), REQUIRED),
    TraceStatus: {"status_code": REQUIRED, "description": None},
    SpanContext: dict.fromkeys(("trace_id", "span_id", "is_remote", "trace_state"), REQUIRED),
    Event: {"name": REQUIRED, "attributes": REQUIRED, "timestamp": None},
    Link: {"context": REQUIRED, "attributes": None},
    OtelResource: {"attributes": REQUIRED, "schema_url": REQUIRED},
    PaginatedResult: dict.fromkeys(("items", "limit", "offset", "total"), REQUIRED),
}


@pytest.mark.parametrize("model", FIELDS, ids=lambda model: model.__name__)
def test_fields_and_defaults_are_those_of_older_releases(model: type[BaseModel]) -> None:
    fields = model.model_fields
    assert {
        name: REQUIRED if fields[name].is_required() else fields[name].get_default(call_default_factory=True)
        for name in FIELDS[model]
    } == FIELDS[model]


@pytest.mark.parametrize("model", FIELDS, ids=lambda model: model.__name__)
def test_nothing_else_must_be_given_than_in_older_releases(model: type[BaseModel]) -> None:
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    known = FIELDS[model] if model is not AttemptedRollout else {**FIELDS[Rollout], **FIELDS[AttemptedRollout]}
    assert required <= {name for name, default in known.items() if default is REQUIRED}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (RolloutStatus, "queuing preparing running failed succeeded cancelled requeuing"),
        (AttemptStatus, "preparing running failed succeeded unresponsive timeout"),
        (RolloutMode, "train val test"),
        (WorkerStatus, "idle busy unknown"),
        (StatusCode, "UNSET OK ERROR"),
        (PromptTemplate.model_fields["engine"].annotation, "jinja f-string poml"),
    ],
)
def test_the_words_are_those_of_older_releases(words: Any, expected: str) -> None:
    assert sorted(get_args(words)) == sorted(expected.split())


def test_what_an_agent_may_return_is_declared() -> None:
    shown = {str(kind) for kind in get_args(RolloutRawResult)}
    assert {float, type(None), list[Span], list[SpanCoreFields]} < set(get_args(RolloutRawResult))
    assert any("ReadableSpan" in kind for kind in shown)
    assert {float, type(None), list[Triplet], RolloutLegacy} < set(get_args(RolloutRawResultLegacy))


def test_filters_and_orders_are_dictionaries_of_these_keys() -> None:
    assert set(get_type_hints(FilterField)) == {"exact", "within", "contains"}
    assert FilterField.__required_keys__ == frozenset()
    assert SortOptions(name="start_time", order="desc") == {"name": "start_time", "order": "desc"}


ATTEMPT = Attempt(
    rollout_id="ro-1",
    attempt_id="at-1",
    sequence_id=2,
    start_time=1.5,
    end_time=2.5,
    status="failed",
    worker_id="w",
    last_heartbeat_time=2.0,
    metadata={"k": [1, None, {"x": "é"}]},
    failure=AttemptFailure(kind="timeout", message="slow", retryable=False),
    late_report=LateReport(status="succeeded", report_time=3.0),
)
CONFIG = RolloutConfig(
    timeout_seconds=1.5, max_attempts=3, retry_condition=["failed", "timeout"], retry_budgets={"infrastructure": 2}
)
ROLLOUT = AttemptedRollout(
    rollout_id="ro-1",
    input={"deep": [1, 2.5, "x", None, True]},
    start_time=1.0,
    mode="train",
    resources_id="rs-1",
    status="running",
    config=CONFIG,
    metadata={"a": 1},
    attempt=ATTEMPT,
)
RESOURCES: NamedResources = {
    "z": PromptTemplate(template="{x}", engine="f-string"),
    "llm": LLM(endpoint="http://x/v1", model="m", sampling_parameters={"temperature": 0.5}),
    "proxy": ProxyLLM(endpoint="http://y/v1", model="m", api_key="k"),
    "own": CustomResource.model_validate({"resource_type": "adapter", "rank": 8}),
}
UPDATE = ResourcesUpdate(resources_id="rs-1", create_time=1.0, update_time=2.0, version=3, resources=RESOURCES)
CONTEXT = SpanContext(trace_id="ab" * 16, span_id="cd" * 8, is_remote=True, trace_state={"vendor": "x"})
SPAN = Span(
    rollout_id="ro-1",
    attempt_id="at-1",
    sequence_id=7,
    trace_id="ab" * 16,
    span_id="cd" * 8,
    parent_id=None,
    name="n",
    status=TraceStatus(status_code="ERROR", description="bad"),
    attributes={"s": "x", "i": 1, "f": 1.5, "b": True, "ids": [1, 2], "words": ["a", "b"]},
    events=[Event(name="e", attributes={"k": "v"}, timestamp=1.25)],
    links=[Link(context=CONTEXT, attributes={"why": "x"})],
    start_time=1.0,
    end_time=2.0,
    context=CONTEXT,
    parent=None,
    resource=OtelResource(attributes={"service.name": "s"}, schema_url="u"),
)
TASK = Task(rollout_id="ro-1", input=[1], mode="val", create_time=1.0, num_claims=2, metadata={"x": 1})
LEGACY = RolloutLegacy.model_validate(
    {
        "rollout_id": "ro-1",
        "task": TASK,
        "final_reward": 0.5,
        "triplets": [Triplet(prompt={"token_ids": [1]}, response="r", reward=1.0)],
        "trace": [{"name": "n"}],
        "logs": ["line"],
    }
)
SAMPLES: list[BaseModel] = [
    ATTEMPT,
    CONFIG,
    Rollout(rollout_id="ro-1", input=None, start_time=0.0),
    ROLLOUT,
    ClaimedRollouts(rollouts=[ROLLOUT], resources=[UPDATE]),
    EnqueueRolloutRequest(input="x", mode="test", config=CONFIG),
    CommandedWorker(
        worker_id="w",
        status="busy",
        heartbeat_stats={"cpu": 0.5},
        commands=[CancelAttempt(rollout_id="ro-1", attempt_id="at-1", reason="over"), Drain()],
    ),
    PaginatedResult[AttemptedRollout | Rollout](items=[ROLLOUT], limit=1, offset=0, total=4),
    *RESOURCES.values(),
    UPDATE,
    SPAN,
    SpanCoreFields(
        name="n", status=TraceStatus(status_code="UNSET"), attributes={"x": [1]}, start_time=None, end_time=1.0
    ),
    TASK,
    TaskIfAny(is_available=True, task=TASK),
    LEGACY,
    GenericResponse.model_validate({"message": "m", "data": {"x": 1}}),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_json_says_it_all(sample: BaseModel) -> None:
    back = type(sample).model_validate_json(sample.model_dump_json())
    assert back == sample
    assert type(sample).model_validate(sample.model_dump(mode="json")) == sample
    assert back.model_dump() == sample.model_dump()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_copies_are_equal_and_independent(sample: BaseModel) -> None:
    for twin in (copy.deepcopy(sample), sample.model_copy(deep=True), pickle.loads(pickle.dumps(sample))):
        assert type(twin) is type(sample)
        assert twin == sample
        for name, value in twin.__dict__.items():
            if isinstance(value, (dict, list)) and value:
                assert value is not sample.__dict__[name]
                value.clear()
                assert twin != sample
                break


@pytest.mark.parametrize(("name", "resource"), RESOURCES.items())
def test_a_resource_is_read_as_what_it_says_it_is(name: str, resource: ResourceUnion) -> None:
    read = TypeAdapter(NamedResources).validate_json(TypeAdapter(NamedResources).dump_json({name: resource}))
    assert type(read[name]) is type(resource)
    assert read == {name: resource}


def test_resources_of_different_types_are_never_equal() -> None:
    assert LLM(endpoint="e", model="m") != ProxyLLM(endpoint="e", model="m")


def test_an_update_of_the_oldest_release_has_neither_times_nor_version() -> None:
    update = ResourcesUpdate.model_validate_json('{"resources_id": "res-1", "resources": {}}')
    assert update.version == 1
    assert update.create_time == update.update_time > 1_700_000_000


def test_a_page_of_rollouts_keeps_their_attempts_in_its_json() -> None:
    page = PaginatedResult[Rollout](items=[ROLLOUT], limit=1, offset=0, total=1)
    assert PaginatedResult[AttemptedRollout].model_validate_json(page.model_dump_json())[0] == ROLLOUT


def test_a_page_is_a_sequence_to_those_who_ask() -> None:
    page = PaginatedResult[int](items=[1, 2], limit=2, offset=0, total=2)
    assert isinstance(page, Sequence)
    assert (page.count(2), bool(page), bool(PaginatedResult[int](items=[], limit=1, offset=0, total=0))) == (
        1,
        True,
        False,
    )


def test_bytes_in_a_span_do_not_keep_it_from_becoming_json() -> None:
    span = Span.from_attributes(attributes={"raw": b"\xff\x00"})  # type: ignore[dict-item]  as exporters send them
    assert span.model_dump(mode="json")["attributes"] == {"raw": "_wA="}
    assert "_wA=" in PaginatedResult[Span](items=[span], limit=1, offset=0, total=1).model_dump_json()


def test_a_span_keeps_fields_of_the_users_own() -> None:
    span = Span.model_validate({**SPAN.model_dump(), "mine": {"x": 1}})
    assert Span.model_validate_json(span.model_dump_json()).model_extra == {"mine": {"x": 1}}


def test_every_part_of_a_virtual_span_can_be_given() -> None:
    given: dict[str, Any] = {
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "sequence_id": 3,
        "name": "n",
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "parent_id": "ef" * 8,
        "start_time": 1.0,
        "end_time": 2.0,
        "resource": OtelResource(attributes={"a": 1}, schema_url="u"),
        "status": TraceStatus(status_code="ERROR"),
    }
    span = Span.from_attributes(attributes={"x": 1}, **given)
    assert {name: getattr(span, name) for name in given} == given
    assert (span.events, span.links, span.attributes) == ([], [], {"x": 1})


def test_names_of_spans_and_attributes_are_their_values() -> None:
    assert {name.name: name.value for name in SpanNames} == {
        "REWARD": "agentlightning.reward",
        "MESSAGE": "agentlightning.message",
        "OBJECT": "agentlightning.object",
        "EXCEPTION": "agentlightning.exception",
        "VIRTUAL": "agentlightning.virtual",
        "ROLLOUT_ID": "agentlightning.rollout_id",
        "ATTEMPT_ID": "agentlightning.attempt_id",
        "SPAN_SEQUENCE_ID": "agentlightning.span_sequence_id",
    }
    assert SpanNames.REWARD == "agentlightning.reward"  # type: ignore[comparison-overlap]  it is a string, too
    assert {name.value for name in SpanAttributeNames} == {"message", "object"}


@pytest.mark.parametrize(
    ("callback", "names"),
    [
        ("on_trace_start", ["agent", "runner", "tracer", "rollout"]),
        ("on_trace_end", ["agent", "runner", "tracer", "rollout"]),
        ("on_rollout_start", ["agent", "runner", "rollout"]),
        ("on_rollout_end", ["agent", "runner", "rollout", "spans"]),
    ],
)
async def test_a_hook_is_called_by_keyword_and_does_nothing_by_itself(callback: str, names: list[str]) -> None:
    method = getattr(Hook(), callback)
    parameters = inspect.signature(method).parameters.values()
    assert [parameter.name for parameter in parameters] == names
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    await method(**dict.fromkeys(names))


def test_a_worker_knows_its_number_once_it_is_set_up() -> None:
    worker = ParallelWorkerBase()
    worker.init("anything", key="word")
    assert worker.worker_id is None
    worker.init_worker(3, "anything")
    assert worker.worker_id == 3
    assert worker.run() is None
    worker.teardown_worker(3)
    worker.teardown()
    assert isinstance(Hook(), ParallelWorkerBase)


def test_anything_with_an_index_and_a_length_is_a_dataset() -> None:
    def first(dataset: Dataset[int]) -> int:
        return dataset[0] * len(dataset)

    class Squares:
        def __getitem__(self, index: Any) -> int:
            return 4 + int(index)

        def __len__(self) -> int:
            return 2

    assert first([3]) == 3
    assert first(Squares()) == 8


@pytest.mark.parametrize(
    ("model", "bad"),
    [
        (Rollout, {"mode": "practice"}),
        (Attempt, {"status": "cancelled"}),
        (PromptTemplate, {"template": "t", "engine": "mustache"}),
        (TraceStatus, {"status_code": "FINE"}),
        (LLM, {"endpoint": "e", "model": "m", "resource_type": "proxy_llm"}),
        (EnqueueRolloutRequest, {}),
        (Triplet, {"prompt": "p"}),
    ],
)
def test_what_no_model_can_be_is_refused_by_name(model: type[BaseModel], bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(bad)
    assert any(model.__name__ in str(refused.value) and error["loc"] for error in refused.value.errors())

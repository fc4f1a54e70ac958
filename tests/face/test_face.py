"""`StoreFace` over the real engine: what it promises beyond what the engine does."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from store_process import StoreProcess

from agentlightning.codec.errors import CodecError
from agentlightning.store import face
from agentlightning.store.api import CallContext
from agentlightning.store.base import LightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.errors import DeadlineExceeded, NotFound, Unavailable
from agentlightning.store.face import StoreFace
from agentlightning.store.local import LocalStore
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.remote.retries import RetryPolicy
from agentlightning.store.server import LightningStoreServer
from agentlightning.store.sqlite import SqliteLightningStore
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.types import (
    LLM,
    AttemptedRollout,
    AttemptFailure,
    CancelAttempt,
    CommandedWorker,
    EnqueueRolloutRequest,
    NamedResources,
    PromptTemplate,
    Rollout,
    RolloutConfig,
    Span,
)
from lightning_store import v1


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(MemoryStorage())
    yield engine
    engine.close()


@pytest.fixture(params=["memory", "sqlite"])
async def local(request: pytest.FixtureRequest, quick_folder: Path) -> AsyncIterator[LocalStore]:
    """Each store of this process."""
    if request.param == "memory":
        local: LocalStore = InMemoryLightningStore()
    else:
        local = SqliteLightningStore(quick_folder / "store.db", durability="crash")
    yield local
    await local.close()


@pytest.fixture(params=["in-process", "grpc"])
async def store(request: pytest.FixtureRequest, local: LocalStore) -> AsyncIterator[StoreFace]:
    """Each store of this process, and the same behind a server."""
    if request.param == "in-process":
        yield local
        return
    server = LightningStoreServer(local, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    yield client
    await client.close()
    await server.stop()


def make_span(rollout: AttemptedRollout, **fields: Any) -> Span:
    return Span.from_attributes(
        **{
            "attributes": {"a": 1},
            "rollout_id": rollout.rollout_id,
            "attempt_id": rollout.attempt.attempt_id,
            "name": "n",
            **fields,
        }
    )


async def finish(store: LightningStore, rollout_id: str) -> None:
    await store.update_rollout(rollout_id, status="succeeded")


async def test_every_method_of_the_contract_is_there() -> None:
    promised = {name for name, member in vars(LightningStore).items() if callable(member) and name[0] != "_"}
    assert promised - vars(StoreFace).keys() == {"otlp_traces_endpoint"}


async def test_ids_are_the_clients_and_have_the_known_form(store: StoreFace) -> None:
    rollout = await store.enqueue_rollout({"q": 1})
    assert rollout.rollout_id.startswith("ro-")
    assert len(bytes.fromhex(rollout.rollout_id[3:])) == 6
    started = await store.start_attempt(rollout.rollout_id)
    assert started.attempt.attempt_id.startswith("at-")
    assert len(bytes.fromhex(started.attempt.attempt_id[3:])) == 4
    resources = await store.add_resources({})
    assert resources.resources_id.startswith("rs-")
    assert len(bytes.fromhex(resources.resources_id[3:])) == 6


async def test_a_rollout_is_created_as_asked(store: StoreFace) -> None:
    config = RolloutConfig(
        timeout_seconds=5.5, max_attempts=3, retry_condition=["timeout"], retry_budgets={"timeout": 1}
    )
    rollout = await store.enqueue_rollout({"q": (1, 2)}, "train", "rs-x", config, {"m": 1}, rollout_id="mine")
    assert type(rollout) is Rollout
    assert rollout.model_dump(exclude={"start_time"}) == {
        "rollout_id": "mine",
        "input": {"q": [1, 2]},
        "end_time": None,
        "mode": "train",
        "resources_id": "rs-x",
        "status": "queuing",
        "config": config.model_dump(),
        "metadata": {"m": 1},
    }
    assert abs(rollout.start_time - time.time()) < 5
    assert (await store.enqueue_rollout(None)).metadata == {}


async def test_a_started_rollout_has_its_attempt_and_worker(store: StoreFace) -> None:
    rollout = await store.start_rollout("x", worker_id="w", rollout_id="mine", lease=30)
    assert (rollout.rollout_id, rollout.status, rollout.attempt.sequence_id) == ("mine", "preparing", 1)
    assert rollout.attempt.worker_id == "w"


async def test_the_same_id_for_something_else_is_refused(store: StoreFace) -> None:
    first = await store.enqueue_rollout(1, rollout_id="mine")
    assert await store.enqueue_rollout(1, rollout_id="mine") == first
    with pytest.raises(ValueError, match="mine exists"):
        await store.enqueue_rollout(2, rollout_id="mine")


async def test_what_json_cannot_carry_is_named_and_nothing_is_stored(store: StoreFace) -> None:
    with pytest.raises(TypeError, match=r"input\.messages\[3\]\.score is nan"):
        await store.enqueue_rollout({"messages": [0, 0, 0, {"score": math.nan}]})
    good, bad = EnqueueRolloutRequest(input=1), EnqueueRolloutRequest(input={1: 2})
    with pytest.raises(TypeError, match="input has the key 1"):
        await store.enqueue_many_rollouts([good, bad])
    assert await store.query_rollouts() == []


async def test_many_rollouts_are_enqueued_in_portions_and_in_order(store: StoreFace) -> None:
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=index) for index in range(2500)])
    assert [rollout.input for rollout in rollouts] == list(range(2500))
    big = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input="x" * 3_000_000) for _ in range(3)])
    assert len(big) == 3
    assert await store.enqueue_many_rollouts([]) == []


async def test_an_empty_queue_gives_none_at_once(store: StoreFace) -> None:
    began = time.monotonic()
    assert await store.dequeue_rollout() is None
    assert await store.dequeue_rollout("w", wait=0) is None
    assert await store.dequeue_many_rollouts(limit=3) == []
    assert await store.dequeue_many_rollouts(limit=0, wait=60) == []
    assert time.monotonic() - began < 30


async def test_a_dequeue_that_waits_gets_the_work_when_it_comes(store: StoreFace) -> None:
    waiting = asyncio.create_task(store.dequeue_rollout("w", wait=30))
    await asyncio.sleep(0.05)
    enqueued = await store.enqueue_rollout("x")
    claimed = await asyncio.wait_for(waiting, 25)
    assert claimed is not None
    assert (claimed.rollout_id, claimed.status, claimed.attempt.worker_id) == (enqueued.rollout_id, "preparing", "w")


async def test_a_dequeue_that_waits_in_vain_ends_in_time(store: StoreFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.face._LONGEST_POLL", 0.1)
    began = time.monotonic()
    assert await store.dequeue_rollout(wait=0.35) is None
    assert 0.3 < time.monotonic() - began < 30


async def test_a_dequeue_that_took_too_long_does_not_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.face._LONGEST_POLL", 0.1)
    waits = []

    class Slow(Engine):
        async def dequeue_rollouts(
            self, context: CallContext, request: v1.DequeueRolloutsRequest
        ) -> v1.DequeueRolloutsResponse:
            waits.append(request.wait.ToMilliseconds())
            await asyncio.sleep(0.3)
            return await super().dequeue_rollouts(context, request)

    engine = Slow(MemoryStorage())
    assert await StoreFace(engine).dequeue_rollout(wait=0.2) is None
    assert waits == [100, 0]
    engine.close()


class Repeating(Engine):
    """An engine that gets calls twice, and another attempt in between."""

    async def _supersede(self, context: CallContext, rollout_id: str) -> None:
        await super().start_attempt(context, v1.StartAttemptRequest(rollout_id=rollout_id))

    async def start_rollout(self, context: CallContext, request: v1.StartRolloutRequest) -> v1.StartRolloutResponse:
        await self._supersede(context, (await super().start_rollout(context, request)).rollout.rollout_id)
        return await super().start_rollout(context, request)

    async def start_attempt(self, context: CallContext, request: v1.StartAttemptRequest) -> v1.StartAttemptResponse:
        await super().start_attempt(context, request)
        await self._supersede(context, request.rollout_id)
        return await super().start_attempt(context, request)


async def test_whoever_starts_gets_its_own_attempt_though_the_call_was_repeated() -> None:
    engine = Repeating(MemoryStorage())
    store = StoreFace(engine)
    first = await store.start_rollout("x", worker_id="w")
    second = await store.start_attempt(first.rollout_id, "w")
    assert (first.attempt.sequence_id, second.attempt.sequence_id) == (1, 3)
    assert [rollout.attempt.worker_id for rollout in (first, second)] == ["w", "w"]
    assert [len(bytes.fromhex(rollout.attempt.attempt_id[3:])) for rollout in (first, second)] == [4, 4]
    assert len(await store.query_attempts(first.rollout_id)) == 4
    engine.close()


async def enqueue_unreadable(engine: Engine, *rollout_ids: str) -> None:
    """Enqueue rollouts whose input a client of this release cannot read."""
    strange = v1.Payload(content_type="text/plain", data=b"x")
    rollouts = [v1.NewRollout(rollout_id=rollout_id, input=strange) for rollout_id in rollout_ids]
    await engine.enqueue_rollouts(CallContext(), v1.EnqueueRolloutsRequest(rollouts=rollouts))


async def test_a_claim_that_cannot_be_read_fails_and_the_others_go_back(engine: Engine) -> None:
    store = StoreFace(engine)
    await store.enqueue_rollout("x", rollout_id="first")
    await enqueue_unreadable(engine, "strange")
    await store.enqueue_rollout("x", rollout_id="last")
    with pytest.raises(CodecError, match=r"^Rollout strange: rollout.input has the content type 'text/plain'"):
        await store.dequeue_many_rollouts(limit=3)
    (attempt,) = await store.query_attempts("strange")
    assert attempt.status == "failed"
    assert attempt.failure is not None
    assert attempt.failure.kind == "infrastructure"
    assert "Rollout strange: rollout.input has the content type" in attempt.failure.message
    assert [rollout.rollout_id for rollout in await store.dequeue_many_rollouts(limit=3)] == ["first", "last"]


async def test_an_attempt_on_what_cannot_be_read_fails(engine: Engine) -> None:
    store = StoreFace(engine)
    await enqueue_unreadable(engine, "strange")
    with pytest.raises(CodecError, match=r"^Rollout strange: "):
        await store.start_attempt("strange")
    assert [attempt.status for attempt in await store.query_attempts("strange")] == ["failed"]


async def test_claims_whose_resources_cannot_be_read_go_back() -> None:
    class Newer(Engine):
        async def dequeue_rollouts(
            self, context: CallContext, request: v1.DequeueRolloutsRequest
        ) -> v1.DequeueRolloutsResponse:
            response = await super().dequeue_rollouts(context, request)
            response.resources.add().resources.add(name="new")
            return response

    engine = Newer(MemoryStorage())
    store = StoreFace(engine)
    rollout = await store.enqueue_rollout("x")
    with pytest.raises(CodecError, match="kind"):
        await store.claim_rollouts()
    assert await store.query_attempts(rollout.rollout_id) == []
    assert await store.get_rollout_by_id(rollout.rollout_id) == rollout
    engine.close()


async def test_a_row_that_cannot_be_read_is_named(engine: Engine) -> None:
    store = StoreFace(engine)
    await store.enqueue_rollout("x")
    await enqueue_unreadable(engine, "strange")
    await finish_unread(engine, "strange")
    for call in (
        store.query_rollouts(),
        store.get_rollout_by_id("strange"),
        store.wait_for_rollouts(rollout_ids=["strange"], timeout=0),
    ):
        with pytest.raises(CodecError, match=r"^Rollout strange: "):
            await call


async def finish_unread(engine: Engine, rollout_id: str) -> None:
    """Finish a rollout that cannot be read."""
    request = v1.UpdateRolloutRequest(rollout_id=rollout_id, status=v1.ROLLOUT_STATUS_SUCCEEDED)
    await engine.update_rollout(CallContext(), request)


async def test_a_claim_brings_the_resources_that_are_not_known(store: StoreFace) -> None:
    first = await store.add_resources({"p": PromptTemplate(template="a", engine="f-string")})
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=index) for index in range(2)])
    claimed = await store.claim_rollouts(limit=1, worker_id="w")
    assert [rollout.input for rollout in claimed.rollouts] == [0]
    assert claimed.resources == [first]
    assert not claimed.draining
    known = [(first.resources_id, first.version)]
    claimed = await store.claim_rollouts(limit=5, worker_id="w", known_resources=known)
    assert [rollout.input for rollout in claimed.rollouts] == [1]
    assert claimed.resources == []


async def test_a_worker_that_drains_gets_nothing_and_is_told(store: StoreFace) -> None:
    await store.enqueue_rollout("x")
    await store.update_worker("w", draining=True)
    claimed = await store.claim_rollouts(worker_id="w", wait=30)
    assert (claimed.rollouts, claimed.draining) == ([], True)
    await store.update_worker("w", draining=False)
    assert await store.dequeue_rollout("w") is not None


async def test_released_attempts_return_to_the_queue(store: StoreFace) -> None:
    await store.enqueue_rollout("x")
    claimed = await store.dequeue_rollout()
    assert claimed is not None
    key = (claimed.rollout_id, claimed.attempt.attempt_id)
    assert await store.release_attempts([key, ("no", "such")]) == [key]
    assert await store.query_attempts(claimed.rollout_id) == []
    again = await store.dequeue_rollout()
    assert again is not None
    assert again.attempt.sequence_id == 1


async def test_getters_of_what_does_not_exist_give_none(store: StoreFace) -> None:
    assert await store.get_rollout_by_id("no") is None
    assert await store.get_latest_attempt("no") is None
    assert await store.get_resources_by_id("no") is None
    assert await store.get_latest_resources() is None
    assert await store.get_worker_by_id("no") is None
    rollout = await store.enqueue_rollout("x")
    assert await store.get_latest_attempt(rollout.rollout_id) is None


async def test_changes_of_what_does_not_exist_raise_as_users_know_it(store: StoreFace) -> None:
    with pytest.raises(ValueError, match=r"^Rollout no not found$"):
        await store.update_rollout("no", status="failed")
    with pytest.raises(ValueError, match=r"^Rollout no not found$"):
        await store.start_attempt("no")
    with pytest.raises(ValueError, match=r"^Rollout no not found$"):
        await store.update_attempt("no", "latest", status="failed")
    rollout = await store.enqueue_rollout("x")
    with pytest.raises(ValueError, match=f"^No attempts found for rollout {rollout.rollout_id}$"):
        await store.update_attempt(rollout.rollout_id, "latest", status="failed")
    with pytest.raises(ValueError, match=f"^Attempt at-9 not found for rollout {rollout.rollout_id}$"):
        await store.update_attempt(rollout.rollout_id, "at-9", status="failed")
    with pytest.raises(ValueError, match="not found"):
        await store.get_next_span_sequence_id("no", "no")
    with pytest.raises(ValueError, match="not found"):
        await store.add_span(Span.from_attributes(attributes={}, rollout_id="no", attempt_id="no"))


async def test_an_unknown_experiment_is_no_empty_store(engine: Engine) -> None:
    other = StoreFace(engine, experiment="other")
    for call in (
        other.get_rollout_by_id("x"),
        other.query_rollouts(),
        other.dequeue_rollout(),
        other.update_rollout("x", status="failed"),
        other.wait_for_rollouts(rollout_ids=["x"], timeout=0),
    ):
        with pytest.raises(NotFound, match="Experiment other not found"):
            await call
    await other.enqueue_rollout("x")
    assert len(await other.query_rollouts()) == 1
    assert await StoreFace(engine).query_rollouts() == []


async def test_lists_know_their_place_and_total(store: StoreFace) -> None:
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=index) for index in range(1205)])
    everything = await store.query_rollouts()
    assert [rollout.input for rollout in everything] == list(range(1205))
    assert (everything.limit, everything.offset, everything.total) == (-1, 0, 1205)
    page = await store.query_rollouts(limit=3, offset=1100)
    assert [rollout.input for rollout in page] == [1100, 1101, 1102]
    assert (page.limit, page.offset, page.total) == (3, 1100, 1205)
    rest = await store.query_rollouts(offset=1203)
    assert [rollout.input for rollout in rest] == [1203, 1204]
    assert rest.total == 1205
    long_page = await store.query_rollouts(limit=1100, sort_by="start_time", sort_order="desc")
    assert len(long_page) == 1100
    assert long_page.total == 1205
    assert (await store.query_rollouts(limit=0)).total == 1205
    assert await store.query_rollouts(limit=0) == []
    beyond = await store.query_rollouts(offset=5000)
    assert (list(beyond), beyond.total) == ([], 1205)


async def test_filters_tell_nothing_from_everything(store: StoreFace) -> None:
    first = await store.enqueue_rollout("a", rollout_id="ro-abc")
    second = await store.start_rollout("b", rollout_id="ro-ABC")
    assert await store.query_rollouts(status_in=[]) == []
    assert await store.query_rollouts(rollout_id_in=[]) == []
    assert await store.query_rollouts(status_in=["queuing"]) == [first]
    assert await store.query_rollouts(rollout_id_in=["ro-ABC", "no"]) == [second]
    assert await store.query_rollouts(rollout_id_contains="ABC") == [second]
    both = {"status_in": ["queuing"], "rollout_id_contains": "ABC"}
    assert await store.query_rollouts(**both) == []  # type: ignore[arg-type]
    assert await store.query_rollouts(**both, filter_logic="or") == [first, second]  # type: ignore[arg-type]
    assert await store.query_rollouts(filter_logic="or") == [first, second]


async def test_what_is_listed_with_an_attempt_shows_it(store: StoreFace) -> None:
    await store.enqueue_rollout("a")
    await store.start_rollout("b")
    assert [type(rollout) for rollout in await store.query_rollouts()] == [Rollout, AttemptedRollout]


async def test_old_names_of_filters_still_work_and_warn(store: StoreFace) -> None:
    rollout = await store.enqueue_rollout("a", rollout_id="mine")
    with pytest.warns(DeprecationWarning, match="status= of query_rollouts"):
        assert await store.query_rollouts(status=["queuing"]) == [rollout]
    with pytest.warns(DeprecationWarning, match="rollout_ids= of query_rollouts"):
        assert await store.query_rollouts(rollout_ids=[]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"sort_by": "colour"},
        {"sort_order": "up"},
        {"filter_logic": "xor"},
        {"status_in": ["lost"]},
        {"status_in": "queuing"},
        {"offset": -1},
    ],
)
async def test_queries_that_make_no_sense_are_refused(store: StoreFace, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        await store.query_rollouts(**arguments)


async def test_one_string_is_no_list_of_ids(store: StoreFace) -> None:
    with pytest.raises(TypeError, match="rollout_id_in must be a list"):
        await store.query_rollouts(rollout_id_in="ro-1")
    with pytest.raises(TypeError, match="rollout_ids must be a list"):
        await store.wait_for_rollouts(rollout_ids="ro-1", timeout=0)  # type: ignore[arg-type]


async def test_an_update_tells_unset_from_none(store: StoreFace) -> None:
    rollout = await store.enqueue_rollout(
        {"q": 1}, "train", "rs-1", RolloutConfig(max_attempts=2), {"m": 1}, rollout_id="mine"
    )
    assert await store.update_rollout("mine") == rollout
    changed = await store.update_rollout("mine", input=None, mode=None, resources_id=None, metadata=None)
    assert (changed.input, changed.mode, changed.resources_id, changed.metadata) == (None, None, None, None)
    assert changed.config == RolloutConfig(max_attempts=2)
    changed = await store.update_rollout("mine", {"q": 2}, "val", "rs-2", "cancelled", RolloutConfig(), {})
    assert (changed.input, changed.mode, changed.resources_id, changed.metadata) == ({"q": 2}, "val", "rs-2", {})
    assert (changed.status, changed.config) == ("cancelled", RolloutConfig())
    assert changed.end_time is not None
    with pytest.raises(TypeError, match="config must be a RolloutConfig"):
        await store.update_rollout("mine", config=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rollout status must be one of"):
        await store.update_rollout("mine", status="lost")  # type: ignore[arg-type]


async def test_a_report_on_an_attempt_tells_unset_from_none(store: StoreFace) -> None:
    rollout = await store.start_rollout("x", worker_id="w")
    attempt = await store.update_attempt(
        rollout.rollout_id, "latest", worker_id="v", last_heartbeat_time=1234.5, metadata={"m": 1}
    )
    assert (attempt.worker_id, attempt.last_heartbeat_time, attempt.metadata) == ("v", 1234.5, {"m": 1})
    attempt = await store.update_attempt(rollout.rollout_id, "latest", worker_id=None, metadata=None)
    assert (attempt.worker_id, attempt.metadata, attempt.status) == (None, None, "preparing")
    failure = AttemptFailure(kind="infrastructure", message="disk", retryable=False)
    attempt = await store.update_attempt(rollout.rollout_id, attempt.attempt_id, "failed", failure=failure)
    assert (attempt.status, attempt.failure, attempt.late_report) == ("failed", failure, None)
    late = await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    assert late.status == "failed"
    assert late.late_report is not None
    assert late.late_report.status == "succeeded"
    with pytest.raises(ValueError, match="last_heartbeat_time"):
        await store.update_attempt(rollout.rollout_id, "latest", last_heartbeat_time=time.time() * 1e9)


async def test_spans_get_their_place_and_come_back(store: StoreFace) -> None:
    rollout = await store.start_rollout("x")
    spans = [make_span(rollout, name=str(index), attributes={"prompt_token_ids": [index]}) for index in range(3)]
    stored = await store.add_many_spans(spans)
    assert [span.sequence_id for span in stored] == [1, 2, 3]
    assert [span.sequence_id for span in spans] == [0, 0, 0], "the caller's spans are left alone"
    assert await store.query_spans(rollout.rollout_id) == stored
    assert await store.query_spans(rollout.rollout_id, "latest") == stored
    assert await store.query_spans(rollout.rollout_id, rollout.attempt.attempt_id, name="1") == [stored[1]]
    assert await store.query_spans(rollout.rollout_id, sort_by="name", sort_order="desc", limit=1) == [stored[2]]
    assert await store.query_spans(rollout.rollout_id, "no") == []
    assert await store.query_spans("no") == []
    kept = await store.add_span(make_span(rollout, sequence_id=40))
    assert kept is not None
    assert kept.sequence_id == 40
    assert await store.get_next_span_sequence_id(rollout.rollout_id, rollout.attempt.attempt_id) == 41


async def test_a_span_that_is_there_already_is_not_stored_again(store: StoreFace) -> None:
    rollout = await store.start_rollout("x")
    first, second = make_span(rollout), make_span(rollout)
    assert await store.add_span(first) is not None
    assert await store.add_span(first) is None
    assert [span.span_id for span in await store.add_many_spans([first, second])] == [second.span_id]
    assert len(await store.query_spans(rollout.rollout_id)) == 2


async def test_more_spans_than_a_call_takes_go_in_several(engine: Engine) -> None:
    sizes = []

    class Weighing(Engine):
        async def add_spans(self, context: CallContext, request: v1.AddSpansRequest) -> v1.AddSpansResponse:
            sizes.append(request.ByteSize())
            return await super().add_spans(context, request)

    weighing = Weighing(MemoryStorage())
    store = StoreFace(weighing)
    rollout = await store.start_rollout("x")
    spans = [make_span(rollout, name=str(index), attributes={"x": "y" * 1_500_000}) for index in range(5)]
    stored = await store.add_many_spans(spans)
    assert [span.name for span in stored] == ["0", "1", "2", "3", "4"]
    assert len(sizes) == 3
    assert max(sizes) < 4_100_000
    assert [span.name for span in await store.query_spans(rollout.rollout_id)] == ["0", "1", "2", "3", "4"]
    assert await store.add_many_spans([]) == []
    weighing.close()


async def test_spans_of_opentelemetry_are_stored(store: StoreFace) -> None:
    rollout = await store.start_rollout("x")
    tracer = TracerProvider().get_tracer("lib")
    source: Any = tracer.start_span("s", attributes={"k": "v"})
    source.end()
    span = await store.add_otel_span(rollout.rollout_id, rollout.attempt.attempt_id, source)
    assert span is not None
    assert span.sequence_id == 1
    assert await store.add_otel_span(rollout.rollout_id, rollout.attempt.attempt_id, source) is None
    (back,) = await store.query_spans(rollout.rollout_id)
    assert back == span
    assert back.start_time_unix_nano == source.start_time


async def test_spans_that_were_dropped_are_not_passed_over_in_silence() -> None:
    engine = Engine(MemoryStorage(), span_bound=SpanBound(evict_above=20_000, evict_down_to=10_000))
    store = StoreFace(engine)
    first = await store.start_rollout("x")
    await store.add_span(make_span(first, attributes={"x": "y" * 15_000}))
    await finish(store, first.rollout_id)
    second = await store.start_rollout("x")
    await store.add_span(make_span(second, attributes={"x": "y" * 15_000}))
    with pytest.raises(RuntimeError, match=f"^Spans for rollout {first.rollout_id} have been evicted$"):
        await store.query_spans(first.rollout_id)
    assert len(await store.query_spans(second.rollout_id)) == 1
    statistics = await store.statistics()
    assert (statistics["evicted_spans"], statistics["total_spans"]) == (1, 1)
    engine.close()


async def test_a_wait_returns_what_has_finished_in_the_order_asked(store: StoreFace) -> None:
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(3)]
    await finish(store, ids[2])
    await finish(store, ids[0])
    for timeout in (0, -1, 0.0, 0.05):
        finished = await store.wait_for_rollouts(rollout_ids=[*ids, "no", ids[0]], timeout=timeout)
        assert [rollout.rollout_id for rollout in finished] == [ids[0], ids[2]]
    assert await store.wait_for_rollouts(rollout_ids=[], timeout=None) == []
    assert await store.wait_for_rollouts(rollout_ids=["no"], timeout=None) == []


async def test_a_wait_without_a_timeout_lasts_until_all_have_finished(store: StoreFace) -> None:
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(3)]
    for endless in (None, math.inf):
        waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=ids, timeout=endless))
        await asyncio.sleep(0.05)
        for rollout_id in ids:
            await finish(store, rollout_id)
        finished = await asyncio.wait_for(waiting, 25)
        assert [rollout.rollout_id for rollout in finished] == ids
        await store.update_rollout(ids[0], status="queuing")


async def test_a_wait_is_for_all_of_them_together(store: StoreFace) -> None:
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(50)]
    began = time.monotonic()
    assert await store.wait_for_rollouts(rollout_ids=ids, timeout=0.2) == []
    assert 0.15 < time.monotonic() - began < 8


async def test_rollouts_are_yielded_as_they_finish(store: StoreFace) -> None:
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(3)]
    seen = []
    await finish(store, ids[1])
    async with aclosing(store.wait_iter(rollout_ids=ids, timeout=5)) as rollouts:
        async for rollout in rollouts:
            seen.append(rollout.rollout_id)
            if len(seen) == 1:
                await finish(store, ids[2])
            elif len(seen) == 2:
                await finish(store, ids[0])
    assert seen == [ids[1], ids[2], ids[0]]


class Breaking(Engine):
    """An engine whose waits break off after one message each, and which counts the streams that are open."""

    def __init__(self, breaks: int) -> None:
        super().__init__(MemoryStorage())
        self.breaks = breaks
        self.asked: list[list[str]] = []
        self.open = 0

    async def wait_for_rollouts(
        self, context: CallContext, request: v1.WaitForRolloutsRequest
    ) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]:
        self.asked.append(list(request.rollout_ids))
        self.open += 1
        try:
            async with aclosing(super().wait_for_rollouts(context, request)) as messages:
                async for message in messages:
                    if self.breaks and message.HasField("done"):
                        self.breaks -= 1
                        raise Unavailable("gone", reason="TEST")
                    yield message
                    if self.breaks:
                        self.breaks -= 1
                        raise Unavailable("gone", reason="TEST")
        finally:
            self.open -= 1


async def test_a_broken_wait_is_taken_up_for_what_is_left() -> None:
    engine = Breaking(2)
    store = StoreFace(engine)
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(4)]
    for rollout_id in ids[:2]:
        await finish(store, rollout_id)
    finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=0.8)
    assert [rollout.rollout_id for rollout in finished] == ids[:2]
    assert engine.asked == [ids, ids[1:], ids[2:]]
    assert engine.open == 0
    engine.close()


async def test_a_wait_that_is_left_early_leaves_no_stream_open() -> None:
    engine = Breaking(0)
    store = StoreFace(engine)
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(2)]
    await finish(store, ids[0])
    async with aclosing(store.wait_iter(rollout_ids=ids)) as rollouts:
        async for _ in rollouts:
            assert engine.open == 1
            break
    assert engine.open == 0
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=ids))
    await asyncio.sleep(0.05)
    assert engine.open == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.open == 0
    engine.close()


async def test_a_store_that_never_lets_wait_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.face._OUTAGES", RetryPolicy(reconnect_seconds=0.3))
    engine = Unanswering()
    rollout = await StoreFace(engine).enqueue_rollout("x")
    with pytest.raises(Unavailable, match="gone"):
        await StoreFace(engine).wait_for_rollouts(rollout_ids=[rollout.rollout_id])
    engine.close()


class Unanswering(Engine):
    """An engine whose waits fail or fall silent, once they have told what has finished by then if they tell that."""

    def __init__(self, *, tells: bool = False, is_silent: bool = False) -> None:
        super().__init__(MemoryStorage())
        self.tells = tells
        self.is_silent = is_silent

    async def wait_for_rollouts(
        self, context: CallContext, request: v1.WaitForRolloutsRequest
    ) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]:
        if self.tells:
            async with aclosing(super().wait_for_rollouts(context, request)) as messages:
                async for message in messages:
                    if message.HasField("finished"):
                        yield message
                    else:
                        break
        if self.is_silent:
            await asyncio.Event().wait()
        raise Unavailable("gone", reason="TEST")


@pytest.mark.parametrize(("is_silent", "error"), [(True, DeadlineExceeded), (False, Unavailable)])
async def test_a_timed_wait_ends_in_time_whatever_the_store_does(
    is_silent: bool, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.store.face._GRACE", 0.2)
    engine = Unanswering(is_silent=is_silent)
    store = StoreFace(engine)
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(3)]
    await finish(store, ids[1])
    began = time.monotonic()
    with pytest.raises(error):
        await store.wait_for_rollouts(rollout_ids=ids, timeout=0.3)
    engine.tells = True
    (finished,) = await store.wait_for_rollouts(rollout_ids=ids, timeout=0)
    assert finished.rollout_id == ids[1]
    assert 0.3 <= time.monotonic() - began < 20
    engine.close()


@pytest.mark.parametrize(("end", "error"), [(signal.SIGSTOP, DeadlineExceeded), (signal.SIGKILL, Unavailable)])
async def test_a_timed_wait_ends_in_time_without_its_server(end: signal.Signals, error: type[Exception]) -> None:
    server = StoreProcess()
    await asyncio.to_thread(server.start)
    client = LightningStoreClient(server.address)
    try:
        rollout = await client.enqueue_rollout("x")
        server.signal(end)
        for timeout in (0, 1):
            began = time.monotonic()
            with pytest.raises(error):
                await client.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=timeout)
            assert time.monotonic() - began < timeout + 20
    finally:
        await client.close()
        server.kill()


async def test_whoever_takes_long_over_each_still_gets_all(store: StoreFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.face._GRACE", 0.2)
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(3)]
    for rollout_id in ids:
        await finish(store, rollout_id)
    seen = []
    async for rollout in store.wait_iter(rollout_ids=ids, timeout=0.1):
        seen.append(rollout.rollout_id)
        await asyncio.sleep(0.4)
    assert seen == ids


async def test_no_rollout_waits_for_others_to_finish(store: StoreFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.face.MOST_IDS", 2)
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(5)]
    await finish(store, ids[4])
    seen = []
    async with aclosing(store.wait_iter(rollout_ids=ids)) as rollouts:
        async for rollout in rollouts:
            seen.append(rollout.rollout_id)
            if len(seen) < 5:
                await finish(store, ids[4 - len(seen)])
    assert seen == ids[::-1]
    finished = await store.wait_for_rollouts(rollout_ids=[*ids, "no"], timeout=0)
    assert [rollout.rollout_id for rollout in finished] == ids


async def test_a_wait_for_many_that_is_left_early_leaves_no_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.face.MOST_IDS", 2)
    engine = Breaking(0)
    store = StoreFace(engine)
    ids = [(await store.enqueue_rollout(index)).rollout_id for index in range(5)]
    await finish(store, ids[4])
    async with aclosing(store.wait_iter(rollout_ids=ids)) as rollouts:
        assert (await anext(rollouts)).rollout_id == ids[4]
        assert engine.open > 0
    assert engine.open == 0
    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=ids))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.open == 0
    engine.close()


async def test_a_store_that_is_closed_ends_the_wait(local: LocalStore) -> None:
    rollout = await local.enqueue_rollout("x")
    waiting = asyncio.create_task(local.wait_for_rollouts(rollout_ids=[rollout.rollout_id]))
    await asyncio.sleep(0.05)
    await local.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 25)


async def test_resources_are_published_and_replaced(store: StoreFace) -> None:
    resources: NamedResources = {"z": LLM(endpoint="e", model="m"), "a": PromptTemplate(template="t", engine="jinja")}
    first = await store.add_resources(resources)
    assert (first.version, list(first.resources)) == (1, ["z", "a"])
    assert first.resources == resources
    assert await store.get_latest_resources() == first
    second = await store.update_resources("mine", {})
    assert (second.resources_id, second.version) == ("mine", 1)
    assert await store.get_latest_resources() == second
    again = await store.update_resources(first.resources_id, {"a": resources["a"]})
    assert (again.version, again.create_time, again.resources) == (2, first.create_time, {"a": resources["a"]})
    assert await store.get_resources_by_id(first.resources_id) == again
    assert await store.query_resources() == [again, second]
    assert await store.query_resources(resources_id="mine") == [second]
    assert await store.query_resources(resources_id_contains="rs-", sort_by="version") == [again]


async def test_workers_beat_and_are_told_what_to_stop(store: StoreFace) -> None:
    rollout = await store.start_rollout("x", worker_id="w")
    held = [(rollout.rollout_id, rollout.attempt.attempt_id)]
    worker = await store.update_worker("w", {"cpu": 0.5}, held=held)
    assert isinstance(worker, CommandedWorker)
    assert (worker.status, worker.heartbeat_stats, worker.commands) == ("busy", {"cpu": 0.5}, [])
    assert (worker.current_rollout_id, worker.current_attempt_id) == held[0]
    await store.update_rollout(rollout.rollout_id, status="cancelled")
    worker = await store.update_worker("w", held=held)
    assert worker.heartbeat_stats == {"cpu": 0.5}
    (command,) = worker.commands
    assert isinstance(command, CancelAttempt)
    assert (command.rollout_id, command.attempt_id) == held[0]
    plain = await store.get_worker_by_id("w")
    assert plain is not None
    assert await store.query_workers(worker_id_contains="w") == [plain]
    assert await store.query_workers(status_in=[]) == []


async def test_deleting_needs_a_selector_and_takes_only_what_it_names(store: StoreFace) -> None:
    with pytest.raises(ValueError, match="rollout_id_in or status_in"):
        await store.delete_rollouts()
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=index) for index in range(1100)])
    ids = [rollout.rollout_id for rollout in rollouts]
    assert await store.delete_rollouts(rollout_ids=[]) == []
    assert await store.delete_rollouts(rollout_ids=[ids[0], "no"]) == [ids[0]]
    assert await store.delete_rollouts(rollout_ids=ids[1:3], status_in=["failed"]) == []
    assert len(await store.delete_rollouts(status_in=["queuing"])) == 1099
    assert await store.query_rollouts() == []


async def test_statistics_are_the_totals(store: StoreFace) -> None:
    await store.start_rollout("x")
    await store.add_resources({})
    await store.update_worker("w")
    statistics = await store.statistics()
    assert statistics["name"] in ("memory", "sqlite")
    assert (statistics["total_rollouts"], statistics["total_attempts"]) == (1, 1)
    assert (statistics["total_resources"], statistics["total_workers"], statistics["total_spans"]) == (1, 1, 0)
    assert statistics["uptime"] >= 0
    served = isinstance(store, LightningStoreClient)
    assert store.capabilities == {"thread_safe": True, "async_safe": True, "zero_copy": served, "otlp_traces": served}


async def test_a_store_of_this_process_has_no_endpoint(local: LocalStore) -> None:
    with pytest.raises(NotImplementedError):
        local.otlp_traces_endpoint()


async def test_what_is_returned_is_a_copy(store: StoreFace) -> None:
    rollout = await store.enqueue_rollout({"q": []})
    rollout.input["q"].append(1)
    stored = await store.get_rollout_by_id(rollout.rollout_id)
    assert stored is not None
    assert stored.input == {"q": []}


async def test_rollouts_are_walked_page_by_page(store: StoreFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_ITER_PAGE", 2)
    modes = ("train", "val", None, "train", "train")
    ids = [(await store.enqueue_rollout(number, mode)).rollout_id for number, mode in enumerate(modes)]

    async def walked(**settings: Any) -> list[str]:
        return [rollout.rollout_id async for rollout in store.iter_rollouts(**settings)]

    assert await walked() == ids
    assert await walked(sort_order="desc") == ids[::-1]
    assert await walked(mode_in=["train"]) == [ids[0], ids[3], ids[4]]
    assert await walked(mode_in=["val", None]) == ids[1:3]
    assert await walked(mode_in=["train"], rollout_id_in=ids[:2]) == ids[:1]
    assert await walked(status_in=["queuing"], rollout_id_contains=ids[2][3:]) == [ids[2]]
    assert await walked(status_in=[]) == []
    with pytest.raises(ValueError, match="sort_order"):
        await walked(sort_order="up")
    # Whoever leaves early has left.
    rollouts = store.iter_rollouts()
    async with aclosing(rollouts):
        assert (await anext(rollouts)).rollout_id == ids[0]


async def test_spans_are_walked_page_by_page(store: StoreFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_ITER_PAGE", 2)
    first = await store.start_rollout("x")
    second = await store.start_attempt(first.rollout_id)
    for number, attempt in enumerate((first, first, second, first, second), 1):
        place = {"rollout_id": attempt.rollout_id, "attempt_id": attempt.attempt.attempt_id, "sequence_id": number}
        await store.add_span(Span.from_attributes(attributes={}, name=f"{number}", **place))

    async def walked(*attempt: str) -> str:
        return "".join([span.name async for span in store.iter_spans(first.rollout_id, *attempt)])

    assert await walked() == "12345"
    assert await walked("latest") == "35"
    assert await walked(first.attempt.attempt_id) == "124"
    assert [span async for span in store.iter_spans("ro-none")] == []

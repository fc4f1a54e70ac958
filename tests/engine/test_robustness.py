"""What must hold when calls cross, links lead astray, rows are many and things break."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from calls import HERE, QUEUING

from agentlightning.store.api import CallContext
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from agentlightning.store.opening import open_engine
from agentlightning.store.remote.api import connect
from agentlightning.store.server.server import StoreServer
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.store.storage.sqlite import SqliteStorage
from lightning_store import v1


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(MemoryStorage())
    yield engine
    engine.close()


async def enqueue(engine: Engine, *rollout_ids: str) -> None:
    new = [v1.NewRollout(rollout_id=rollout_id) for rollout_id in rollout_ids]
    await engine.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=new))


async def claim(engine: Engine, wait: int = 0, context: CallContext = HERE) -> list[v1.Claim]:
    request = v1.DequeueRolloutsRequest(limit=1)
    request.wait.FromSeconds(wait)
    return list((await engine.dequeue_rollouts(context, request)).claims)


async def get(engine: Engine, rollout_id: str) -> v1.Rollout:
    return (await engine.get_rollout(HERE, v1.GetRolloutRequest(rollout_id=rollout_id))).rollout


async def release(engine: Engine, attempt: v1.Attempt) -> None:
    key = v1.AttemptKey(rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id)
    response = await engine.release_attempts(HERE, v1.ReleaseAttemptsRequest(attempts=[key]))
    assert len(response.released) == 1


async def test_no_runner_sleeps_beside_a_full_queue(quick_folder: Path) -> None:
    """Goes wrong when a wake-up reaches a runner that is just claiming something else, and stays with it."""
    engine = Engine(SqliteStorage(quick_folder / "store.db", durability="crash"))
    for _ in range(5):
        waiting = [asyncio.create_task(claim(engine, wait=20)) for _ in range(8)]
        await asyncio.sleep(0.05)
        for number in range(8):
            await asyncio.sleep(0.0007)
            asyncio.create_task(enqueue(engine, f"{time.monotonic_ns()}-{number}"))  # noqa: RUF006
        claims = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert all(len(found) == 1 for found in claims)
    engine.close()


async def test_a_caller_that_has_gone_leaves_its_turn_to_the_next(engine: Engine) -> None:
    gone = asyncio.create_task(claim(engine, 5, CallContext(is_present=lambda: False)))
    await asyncio.sleep(0.05)
    present = asyncio.create_task(claim(engine, 20))
    await asyncio.sleep(0.05)
    await enqueue(engine, "r1")
    assert len(await asyncio.wait_for(present, 10)) == 1
    gone.cancel()


async def test_a_server_can_be_started_again(engine: Engine) -> None:
    server = StoreServer(engine, port=0)
    for number in range(2):
        await server.start()
        api = connect(server.address)
        await api.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id=f"r{number}")]))
        assert len((await api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1))).claims) == 1
        await api.close()
        await server.stop()


@pytest.mark.parametrize(
    "status", [v1.ROLLOUT_STATUS_SUCCEEDED, v1.ROLLOUT_STATUS_CANCELLED, v1.ROLLOUT_STATUS_QUEUING]
)
async def test_what_is_handed_back_leaves_the_rollout_as_it_was(
    engine: Engine, status: v1.RolloutStatus.ValueType
) -> None:
    """Goes wrong when handing back brings a finished rollout back to life."""
    await enqueue(engine, "r1")
    await engine.update_rollout(HERE, v1.UpdateRolloutRequest(rollout_id="r1", status=status))
    before = await get(engine, "r1")
    started = await engine.start_attempt(HERE, v1.StartAttemptRequest(rollout_id="r1"))

    await release(engine, started.attempt)

    assert await get(engine, "r1") == before
    assert len(await claim(engine)) == (1 if status == QUEUING else 0)


async def test_handing_back_a_second_attempt_leaves_the_first_alone_at_work(engine: Engine) -> None:
    """Goes wrong when a rollout that is being run is given to a second runner."""
    await enqueue(engine, "r1")
    (first,) = await claim(engine)
    started = await engine.start_attempt(HERE, v1.StartAttemptRequest(rollout_id="r1"))
    await release(engine, started.attempt)
    rollout = await get(engine, "r1")
    assert rollout.status == v1.ROLLOUT_STATUS_PREPARING
    assert rollout.latest_attempt.attempt_id == first.attempt.attempt_id
    assert await claim(engine) == []


async def test_what_was_called_off_meanwhile_stays_called_off(engine: Engine) -> None:
    await enqueue(engine, "r1")
    (claimed,) = await claim(engine)
    cancelled = v1.UpdateRolloutRequest(rollout_id="r1", status=v1.ROLLOUT_STATUS_CANCELLED)
    await engine.update_rollout(HERE, cancelled)
    await release(engine, claimed.attempt)
    assert (await get(engine, "r1")).status == v1.ROLLOUT_STATUS_CANCELLED
    assert await claim(engine) == []


async def test_a_started_rollout_that_is_handed_back_goes_to_the_queue(engine: Engine) -> None:
    request = v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id="r1"))
    await release(engine, (await engine.start_rollout(HERE, request)).attempt)
    assert [found.rollout.rollout_id for found in await claim(engine)] == ["r1"]


async def test_a_repeated_start_answers_with_its_own_attempt(engine: Engine) -> None:
    """Goes wrong when two runners are told to report on one attempt."""
    await enqueue(engine, "r1")
    first = v1.StartAttemptRequest(rollout_id="r1", attempt_id="at-one")
    await engine.start_attempt(HERE, first)
    await engine.start_attempt(HERE, v1.StartAttemptRequest(rollout_id="r1", attempt_id="at-two", worker_id="other"))

    again = await engine.start_attempt(HERE, first)

    assert (again.attempt.attempt_id, again.rollout.latest_attempt.attempt_id) == ("at-one", "at-two")


async def test_a_rollout_that_was_enqueued_is_not_started_by_the_same_words(engine: Engine) -> None:
    await enqueue(engine, "r1")
    await claim(engine)
    with pytest.raises(AlreadyExists):
        await engine.start_rollout(HERE, v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id="r1")))


async def test_a_listener_that_fails_does_not_stop_the_storage(quick_folder: Path) -> None:
    engine = Engine(SqliteStorage(quick_folder / "store.db"))

    def fail(signals: object) -> None:
        raise RuntimeError("cannot tell")

    engine.storage.on_commit(fail)
    for number in range(3):
        await asyncio.wait_for(enqueue(engine, f"r{number}"), 25)
    engine.close()


def test_a_link_to_a_file_is_the_file(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    with pytest.raises(FailedPrecondition, match="another server has it open"):
        open_engine(f"sqlite:///{tmp_path}/link.db")
    engine.close()


def test_a_path_that_a_url_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="%23"):
        open_engine(f"sqlite:///{tmp_path}/a#b.db")
    engine = open_engine(f"sqlite:///{tmp_path}/a%23b.db")
    engine.close()
    assert (tmp_path / "a#b.db").exists()


def test_a_file_whose_identity_is_damaged_is_refused_clearly(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    open_engine(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE store")
    connection.close()
    with pytest.raises(FailedPrecondition, match="no such table"):
        open_engine(f"sqlite:///{path}")
    assert sqlite3.connect(f"{path}-lock").execute("SELECT 1").fetchone() == (1,)


async def test_a_full_memory_store_drops_spans_before_it_refuses_anything() -> None:
    """Goes wrong when what stands beside the spans fills the store before the spans reach their bound."""
    engine = Engine(MemoryStorage(4 << 20), span_bound=SpanBound(evict_above=3 << 20, evict_down_to=2 << 20))
    for number in range(150):
        request = v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id=f"r{number}"))
        attempt = (await engine.start_rollout(HERE, request)).attempt
        spans = [
            v1.Span(
                trace_id=os.urandom(16),
                span_id=os.urandom(8),
                rollout_id=f"r{number}",
                attempt_id=attempt.attempt_id,
            )
            for _ in range(300)
        ]
        group = v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=spans)])
        await engine.add_spans(HERE, v1.AddSpansRequest(resource_spans=[group]))
        await engine.update_attempt(
            HERE,
            v1.UpdateAttemptRequest(
                rollout_id=f"r{number}", attempt_id=attempt.attempt_id, status=v1.ATTEMPT_STATUS_SUCCEEDED
            ),
        )
    statistics = await engine.get_statistics(HERE, v1.GetStatisticsRequest())
    assert statistics.evicted_spans > 0
    assert statistics.evicted_spans + statistics.total_spans == 150 * 300
    engine.close()


async def test_where_spans_came_from_is_forgotten_with_the_last_of_them(engine: Engine) -> None:
    for number in range(5):
        request = v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id=f"r{number}"))
        attempt = (await engine.start_rollout(HERE, request)).attempt
        place = v1.KeyValue(key="rollout", value=v1.AnyValue(string_value=f"r{number}"))
        span = v1.Span(rollout_id=f"r{number}", attempt_id=attempt.attempt_id)
        twin = v1.Span(trace_id=b"t" * 16, span_id=b"s" * 8, rollout_id=f"r{number}", attempt_id=attempt.attempt_id)
        group = v1.ResourceSpans(
            resource=v1.SpanResource(attributes=[place]), scope_spans=[v1.ScopeSpans(spans=[span, span])]
        )
        await engine.add_spans(HERE, v1.AddSpansRequest(resource_spans=[group]))
    nothing_new = v1.ResourceSpans(schema_url="other", scope_spans=[v1.ScopeSpans(spans=[twin])])
    for groups in ([v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[twin])])], [nothing_new]):
        await engine.add_spans(HERE, v1.AddSpansRequest(resource_spans=groups))
    everything = v1.StringSet(values=[f"r{number}" for number in range(4)])
    await engine.delete_rollouts(HERE, v1.DeleteRolloutsRequest(rollout_id_in=everything))

    left = engine.storage.run_blocking(lambda tx: tx._execute("SELECT spans FROM sources").fetchall())  # noqa: SLF001

    assert left == [(2,), (1,)]


@pytest.mark.parametrize(
    "new",
    [
        v1.NewRollout(mode=77),  # type: ignore[arg-type]
        v1.NewRollout(config=v1.RolloutConfig(retry_on=[99])),  # type: ignore[list-item]
        v1.NewRollout(config=v1.RolloutConfig(retry_budgets=[v1.RetryBudget(kind=99)])),  # type: ignore[arg-type]
    ],
    ids=["mode", "retry_on", "budget"],
)
async def test_a_value_that_others_could_not_read_is_refused(engine: Engine, new: v1.NewRollout) -> None:
    with pytest.raises(InvalidArgument):
        await engine.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=[new]))


async def test_a_claim_of_large_rollouts_ends_with_what_an_answer_takes(engine: Engine) -> None:
    large = v1.Payload(content_type="application/json", data=b'"' + b"x" * (1 << 20) + b'"')
    for number in range(6):
        new = v1.NewRollout(rollout_id=f"r{number}", input=large)
        await engine.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=[new]))
    claims = (await engine.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=6))).claims
    assert len(claims) == 2
    assert len((await engine.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=6))).claims) == 2


async def test_large_rollouts_that_are_waited_for_all_arrive(engine: Engine) -> None:
    large = v1.Payload(content_type="application/json", data=b'"' + b"x" * (1 << 20) + b'"')
    ids = [f"r{number}" for number in range(5)]
    for rollout_id in ids:
        new = v1.NewRollout(rollout_id=rollout_id, input=large)
        await engine.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=[new]))
        done = v1.UpdateRolloutRequest(rollout_id=rollout_id, status=v1.ROLLOUT_STATUS_SUCCEEDED)
        await engine.update_rollout(HERE, done)
    events = [event async for event in engine.wait_for_rollouts(HERE, v1.WaitForRolloutsRequest(rollout_ids=ids))]
    assert [event.finished.rollout_id for event in events[:-1]] == ids
    assert events[-1].HasField("done")


async def test_a_deletion_is_forgotten_in_time_on_a_quiet_store(engine: Engine) -> None:
    assert engine.look_after_attempts() is None
    await enqueue(engine, "r1")
    await engine.delete_rollouts(HERE, v1.DeleteRolloutsRequest(rollout_id_in=v1.StringSet(values=["r1"])))
    left = engine.look_after_attempts()
    assert left is not None
    assert 86_000 < left <= 86_401


async def test_the_worker_of_an_ended_attempt_stays(engine: Engine) -> None:
    await enqueue(engine, "r1")
    (claimed,) = await claim(engine)
    for request in (
        v1.UpdateAttemptRequest(status=v1.ATTEMPT_STATUS_SUCCEEDED, worker_id="mine"),
        v1.UpdateAttemptRequest(worker_id="late"),
    ):
        request.rollout_id, request.attempt_id = "r1", claimed.attempt.attempt_id
        attempt = (await engine.update_attempt(HERE, request)).attempt
    assert attempt.worker_id == "mine"


def _enqueue_in_child(path: str, outcome: multiprocessing.Queue[str]) -> None:
    try:
        asyncio.run(enqueue(_SHARED[path], "from-child"))
    except RuntimeError as error:
        outcome.put(type(error).__name__)


_SHARED: dict[str, Engine] = {}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_that_a_file_does_not_survive_the_fork(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    _SHARED[path] = Engine(SqliteStorage(path))
    context = multiprocessing.get_context("fork")
    outcome: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_enqueue_in_child, args=(path, outcome))
    child.start()
    assert outcome.get(timeout=10) == "ForkedError"
    child.join(10)
    _SHARED.pop(path).close()

"""The remote client tries again where that is safe, does nothing twice, and gives up in time."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from calls import (
    AT_FAILED,
    AT_SUCCEEDED,
    HERE,
    RUNNING,
    add_spans,
    attempts,
    claim,
    claimed_ids,
    config,
    dequeue,
    enqueue,
    get,
    ids,
    named,
    prompt,
    publish,
    queue,
    refused,
    report,
    span,
    spans,
    start_attempt,
    statistics,
    waiting_for,
)
from lossy_proxy import LossyProxy, lossy_proxy
from store_process import Connect, StartServer, StoreProcess

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import DeadlineExceeded, NotFound, ResourceExhausted, Unavailable
from agentlightning.store.remote.retries import Budgets, RetryPolicy, is_repeatable
from lightning_store import v1


@pytest_asyncio.fixture
async def proxy(server: StoreProcess) -> AsyncIterator[LossyProxy]:
    """A way to the shared server on which answers get lost."""
    async with lossy_proxy(server.address) as opened:
        yield opened


@pytest_asyncio.fixture
async def api(proxy: LossyProxy, connect_to: Connect) -> StoreApi:
    """A client that goes through the proxy, and has been answered once."""
    made = connect_to(proxy.address)
    await made.get_server_info(HERE, v1.GetServerInfoRequest())
    return made


@pytest.fixture
def names() -> list[str]:
    """Ids that no other test has."""
    mark = secrets.token_hex(4)
    return [f"{mark}-{number}" for number in range(3)]


def lose(proxy: LossyProxy, count: int = 1) -> int:
    """Lose the next answers, and return how many will have been lost by then."""
    proxy.answers_to_lose = count
    return proxy.lost + count


async def test_rollouts_are_enqueued_once_though_the_answer_was_lost(
    api: StoreApi, proxy: LossyProxy, names: list[str]
) -> None:
    expected = lose(proxy, 2)
    answered = await enqueue(api, *names)
    assert proxy.lost == expected
    assert [rollout.rollout_id for rollout in answered] == names
    assert await ids(api, rollout_id_in=v1.StringSet(values=names)) == names
    assert [name for name in await queue(api) if name in names] == names


async def test_a_claim_is_made_once_though_the_answer_was_lost(
    api: StoreApi, proxy: LossyProxy, names: list[str]
) -> None:
    experiment = names[0]
    await enqueue(api, *names, experiment=experiment)
    expected = lose(proxy)
    claimed = await dequeue(api, 2, claim_id=secrets.token_hex(8), experiment=experiment)
    assert proxy.lost == expected
    assert claimed_ids(claimed) == names[:2]
    assert (await statistics(api, experiment)).total_attempts == 2
    assert claimed_ids(await dequeue(api, 10, experiment=experiment)) == names[2:]


async def test_a_claim_without_an_id_is_not_sent_again(api: StoreApi, proxy: LossyProxy, names: list[str]) -> None:
    await enqueue(api, *names, experiment=names[0])
    lose(proxy)
    with refused(Unavailable, "SERVER_UNREACHABLE"):
        await dequeue(api, 1, experiment=names[0])
    assert (await statistics(api, names[0])).total_attempts == 1


async def test_spans_are_stored_once_though_the_answer_was_lost(
    api: StoreApi, proxy: LossyProxy, names: list[str]
) -> None:
    await enqueue(api, names[0])
    attempt = await start_attempt(api, names[0], "a1")
    expected = lose(proxy)
    stored = await add_spans(api, span(attempt, "one"), span(attempt, "two"))
    assert proxy.lost == expected
    assert list(stored.sequence_ids) == [1, 2]
    assert [one.name for one in await spans(api, names[0])] == ["one", "two"]


async def test_spans_without_identity_are_not_sent_again(api: StoreApi, proxy: LossyProxy, names: list[str]) -> None:
    await enqueue(api, names[0])
    attempt = await start_attempt(api, names[0], "a1")
    lose(proxy)
    with refused(Unavailable, "SERVER_UNREACHABLE"):
        await add_spans(api, span(attempt, trace_id=b"", span_id=b""))
    assert len(await spans(api, names[0])) == 1


async def test_an_attempt_is_made_once_though_the_answer_was_lost(
    api: StoreApi, proxy: LossyProxy, names: list[str]
) -> None:
    await enqueue(api, names[0])
    expected = lose(proxy)
    await start_attempt(api, names[0], "a1")
    assert proxy.lost == expected
    assert [attempt.attempt_id for attempt in await attempts(api, names[0])] == ["a1"]


async def test_a_report_that_was_lost_does_not_end_the_attempt_that_follows(
    api: StoreApi, proxy: LossyProxy, names: list[str]
) -> None:
    await enqueue(api, names[0], config=config(max_attempts=3, retry_on=[AT_FAILED]))
    first = await start_attempt(api, names[0], "a1")
    expected = lose(proxy)
    assert (await report(api, first, AT_FAILED)).status == AT_FAILED
    assert proxy.lost == expected
    assert (await get(api, names[0])).status == v1.ROLLOUT_STATUS_REQUEUING
    latest = v1.Attempt(rollout_id=names[0], attempt_id="latest")
    await start_attempt(api, names[0], "a2")
    lose(proxy)
    with refused(Unavailable, "SERVER_UNREACHABLE"):  # "latest" may be another one by the next try
        await report(api, latest, AT_FAILED)
    assert [attempt.status for attempt in await attempts(api, names[0])] == [AT_FAILED, AT_FAILED]


async def test_resources_are_published_once_though_the_answer_was_lost(
    api: StoreApi, proxy: LossyProxy, names: list[str]
) -> None:
    expected = lose(proxy)
    assert (await publish(api, names[0])).version == 1
    assert proxy.lost == expected
    update = v1.UpdateResourcesRequest(resources_id=names[0], resources=named(main=prompt("new")), expected_version=1)
    lose(proxy)
    assert (await api.update_resources(HERE, update)).resources.version == 2
    assert proxy.lost == expected + 1


async def test_reads_are_sent_again(api: StoreApi, proxy: LossyProxy, names: list[str]) -> None:
    await enqueue(api, *names)
    expected = lose(proxy, 3)
    assert await ids(api, rollout_id_in=v1.StringSet(values=names)) == names
    assert proxy.lost == expected


async def test_a_stream_that_breaks_says_so(api: StoreApi, proxy: LossyProxy, names: list[str]) -> None:
    await enqueue(api, names[0])
    lose(proxy)
    with refused(Unavailable, "SERVER_UNREACHABLE"):
        await anext(waiting_for(api, names[0], timeout=0))
    await statistics(api)  # sent again until there is a connection
    (done,) = [message async for message in waiting_for(api, names[0], timeout=0)]
    assert list(done.done.pending_rollout_ids) == [names[0]]


@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
async def test_a_wrong_address_is_told_within_its_budget(connect_to: Connect, scheme: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        api = connect_to(f"{scheme}{address}", retries=RetryPolicy(connect_seconds=0.7))
        begun = time.monotonic()
        with refused(Unavailable, "SERVER_UNREACHABLE") as caught:
            await statistics(api)
    assert 0.6 < time.monotonic() - begun < 4.5
    assert address in caught.value.message


async def test_whoever_listens_and_says_nothing_is_told_within_the_budget(connect_to: Connect) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        api = connect_to(address, retries=RetryPolicy(connect_seconds=0.5))
        begun = time.monotonic()
        with refused(Unavailable, "SERVER_UNREACHABLE") as caught:
            await statistics(api)
    assert time.monotonic() - begun < 15
    assert address in caught.value.message


async def test_an_unknown_host_is_told_within_the_budget(connect_to: Connect) -> None:
    api = connect_to("no-such-host.invalid:4747", retries=RetryPolicy(connect_seconds=0.5))
    begun = time.monotonic()
    with refused(Unavailable, "SERVER_UNREACHABLE") as caught:
        await statistics(api)
    assert time.monotonic() - begun < 15
    assert "no-such-host.invalid:4747" in caught.value.message


async def test_a_server_of_something_else_is_told(connect_to: Connect) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    api = connect_to(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", retries=RetryPolicy(connect_seconds=0.5))
    with refused(Unavailable, "SERVER_UNREACHABLE"):
        await statistics(api)
    other.close()
    await other.wait_closed()


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":4747", "host:x", "host:99999", "https://host:1", "grpc://host:1/path", "h:1?q=1"]
)
def test_an_address_that_is_none_is_refused_before_any_call(connect_to: Connect, address: str) -> None:
    with pytest.raises(ValueError, match="Cannot connect to"):
        connect_to(address)


async def test_a_client_may_be_there_before_its_server(connect_to: Connect, start_server: StartServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = connect_to(f"127.0.0.1:{port}", retries=RetryPolicy(connect_seconds=15))
    asked = asyncio.ensure_future(statistics(api))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(start_server, port=port)
    assert (await asked).storage == "memory"


async def test_calls_go_on_after_a_restart(connect_to: Connect, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(f"sqlite:///{tmp_path}/store.db")
    api = connect_to(server.address)
    await enqueue(api, "a", "b")
    attempt = await claim(api, claim_id="c1", worker_id="w")
    server.kill()
    added = asyncio.ensure_future(add_spans(api, span(attempt, "thought")))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(server.start)
    assert list((await added).sequence_ids) == [1]
    assert (await get(api, "a")).status == RUNNING
    server.kill()
    await asyncio.to_thread(server.start)
    assert (await report(api, attempt, AT_SUCCEEDED)).status == AT_SUCCEEDED
    assert claimed_ids(await dequeue(api, 5, claim_id="c2")) == ["b"]
    assert (await statistics(api)).total_attempts == 2


async def test_a_server_that_stays_away_is_given_up(connect_to: Connect, start_server: StartServer) -> None:
    server = start_server()
    api = connect_to(server.address, retries=RetryPolicy(reconnect_seconds=0.7))
    await statistics(api)
    server.kill()
    begun = time.monotonic()
    with refused(Unavailable, "SERVER_UNREACHABLE") as caught:
        await statistics(api)
    assert 0.6 < time.monotonic() - begun < 30
    assert server.address in caught.value.message


async def test_a_late_answer_is_asked_for_again_and_nothing_happens_twice(
    connect_to: Connect, start_server: StartServer
) -> None:
    server = start_server()
    api = connect_to(server.address, request_timeout=0.5)
    await enqueue(api, "first")
    server.signal(signal.SIGSTOP)
    enqueued = asyncio.ensure_future(enqueue(api, "late"))
    await asyncio.sleep(0.8)
    assert not enqueued.done()
    server.signal(signal.SIGCONT)
    await enqueued
    assert await ids(api) == ["first", "late"]


async def test_answers_that_never_come_are_given_up(connect_to: Connect, start_server: StartServer) -> None:
    server = start_server()
    api = connect_to(server.address, request_timeout=0.2)
    await statistics(api)
    server.signal(signal.SIGSTOP)
    begun = time.monotonic()
    with refused(DeadlineExceeded, "DEADLINE_EXCEEDED"):
        await statistics(api)
    assert 0.5 < time.monotonic() - begun < 30
    server.signal(signal.SIGCONT)


async def test_what_the_store_refuses_is_not_sent_again(api: StoreApi) -> None:
    begun = time.monotonic()
    with refused(NotFound, "ROLLOUT_NOT_FOUND"):
        await get(api, "nothing")
    assert time.monotonic() - begun < 20


def test_an_overloaded_server_is_tried_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("agentlightning.store.remote.retries.time.monotonic", lambda: now)
    budgets = Budgets(RetryPolicy(overload_seconds=12), was_connected=True)
    full = ResourceExhausted("full", reason="SPAN_MEMORY_FULL", retry_after=5.0)
    assert budgets.delay_after(full) == 5.0
    now += 5
    assert budgets.delay_after(full) == 5.0
    now += 5
    assert budgets.delay_after(full) == 2.0  # what is left
    now += 2
    assert budgets.delay_after(full) is None


def test_a_bound_that_stays_is_not_tried_again() -> None:
    budgets = Budgets(RetryPolicy(), was_connected=True)
    assert budgets.delay_after(ResourceExhausted("full", reason="STORAGE_FULL")) is None


def test_each_kind_of_failure_has_a_budget_of_its_own() -> None:
    budgets = Budgets(RetryPolicy(late_answers=2, reconnect_seconds=60), was_connected=True)
    late, away = DeadlineExceeded("late", reason="X"), Unavailable("away", reason="X")
    assert budgets.delay_after(late) == 0.0
    assert 0 < (budgets.delay_after(away) or 0) < 1
    assert budgets.delay_after(late) == 0.0
    assert 0 < (budgets.delay_after(away) or 0) < 1
    assert budgets.delay_after(late) is None


def test_given_delays_are_kept_to() -> None:
    budgets = Budgets(RetryPolicy(delays=[0.25, 0.5]), was_connected=True)
    away = Unavailable("away", reason="X")
    assert [budgets.delay_after(away) for _ in range(3)] == [0.25, 0.5, None]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="a"), v1.NewRollout()]), False),
        (v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="a")]), True),
        (v1.StartRolloutRequest(rollout=v1.NewRollout()), False),
        (v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id="a")), True),
        (v1.DequeueRolloutsRequest(limit=1), False),
        (v1.DequeueRolloutsRequest(limit=1, claim_id="c"), True),
        (v1.StartAttemptRequest(rollout_id="a"), False),
        (v1.StartAttemptRequest(rollout_id="a", attempt_id="b"), True),
        (v1.AddResourcesRequest(), False),
        (v1.AddResourcesRequest(resources_id="a"), True),
        (v1.UpdateRolloutRequest(rollout_id="a", status=v1.ROLLOUT_STATUS_REQUEUING), False),
        (v1.UpdateRolloutRequest(rollout_id="a", status=v1.ROLLOUT_STATUS_CANCELLED), True),
        (v1.UpdateAttemptRequest(rollout_id="a", attempt_id="latest", status=AT_FAILED), False),
        (v1.UpdateAttemptRequest(rollout_id="a", attempt_id="latest"), True),
        (v1.UpdateAttemptRequest(rollout_id="a", attempt_id="b", status=AT_FAILED), True),
        (v1.ListRolloutsRequest(), True),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bool) else str(value),
)
def test_only_what_is_safe_is_sent_again(request_: object, expected: bool) -> None:
    assert is_repeatable(request_) is expected  # type: ignore[arg-type]


async def test_a_call_that_is_given_up_is_cancelled_at_the_server(
    connect_to: Connect, server: StoreProcess, names: list[str]
) -> None:
    api = connect_to(server.address)
    await enqueue(api, "other", experiment=names[0])
    await dequeue(api, experiment=names[0])
    held = asyncio.ensure_future(dequeue(api, wait=30, claim_id="c", experiment=names[0]))
    await asyncio.sleep(0.2)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    await asyncio.sleep(0.1)
    await enqueue(api, "later", experiment=names[0])
    assert (await statistics(api, names[0])).total_attempts == 1

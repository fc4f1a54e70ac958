"""A server that is told to end lets its clients know, and keeps every answered write."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from calls import HERE, enqueue, finish, ids, publish, refused, seconds, span_names, statistics
from grpc_health.v1 import health_pb2, health_pb2_grpc
from store_process import Connect, StartServer, StoreProcess

from agentlightning.store import status
from agentlightning.store.errors import StoreError, Unavailable
from agentlightning.store.remote.retries import RetryPolicy
from lightning_store import v1
from lightning_store.v1 import resources_service_pb2_grpc, rollout_service_pb2_grpc


@pytest.fixture
def durable(request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path) -> StoreProcess:
    """A server on a file, which gives calls a second to finish, or as many as a test asks for."""
    options = ["--grace", getattr(request, "param", "1")]
    return start_server(f"sqlite:///{tmp_path}/store.db", options=options, log=tmp_path / "log")


@pytest_asyncio.fixture
async def raw(durable: StoreProcess) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that repeats nothing."""
    async with grpc.aio.insecure_channel(durable.address) as channel:
        yield channel


async def error_of(call: Awaitable[Any]) -> StoreError:
    """The error that a call of grpcio ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return status.decode(caught.value.code(), caught.value.details() or "", caught.value.trailing_metadata() or ())


@pytest.mark.parametrize("durable", ["60"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_held_calls_end_at_once_and_say_why(
    durable: StoreProcess, raw: grpc.aio.Channel, connect_to: Connect, number: signal.Signals
) -> None:
    api = connect_to(durable.address)
    await enqueue(api, "held")
    await api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1))
    rollouts = rollout_service_pb2_grpc.RolloutServiceStub(raw)
    dequeue = rollouts.DequeueRollouts(v1.DequeueRolloutsRequest(limit=1, wait=seconds(30)))
    wait = rollouts.WaitForRollouts(v1.WaitForRolloutsRequest(rollout_ids=["held"]))
    watch = rollouts.WatchRollouts(v1.WatchRolloutsRequest())
    assert (await watch.read()).caught_up
    await publish(api, "first")
    resources = resources_service_pb2_grpc.ResourcesServiceStub(raw).WatchLatestResources(
        v1.WatchLatestResourcesRequest()
    )
    assert (await resources.read()).resources.resources_id == "first"
    held = [
        asyncio.ensure_future(error_of(call))
        for call in (asyncio.shield(_answer(dequeue)), wait.read(), watch.read(), resources.read())
    ]
    await asyncio.sleep(0.3)  # all of them are held
    assert not any(call.done() for call in held)
    begun = time.monotonic()
    durable.signal(number)
    for error in await asyncio.wait_for(asyncio.gather(*held), 25):
        assert isinstance(error, Unavailable)
        assert error.reason == "SHUTTING_DOWN"
        assert error.retry_after is not None
    assert await asyncio.to_thread(durable.wait) == 0
    assert time.monotonic() - begun < 50  # nobody was left to wait for


async def _answer(call: Any) -> Any:
    return await call


async def test_what_was_answered_is_there_after_a_restart(durable: StoreProcess, connect_to: Connect) -> None:
    api = connect_to(durable.address)
    await enqueue(api, "a", "b", "c")
    await finish(api, "a")
    claimed = (await api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1, claim_id="c1"))).claims[0]
    await api.add_spans(
        HERE,
        v1.AddSpansRequest(
            resource_spans=[
                v1.ResourceSpans(
                    scope_spans=[
                        v1.ScopeSpans(
                            spans=[v1.Span(rollout_id="b", attempt_id=claimed.attempt.attempt_id, name="thought")]
                        )
                    ]
                )
            ]
        ),
    )
    before = await statistics(api)
    assert durable.stop() == 0
    durable.start()
    after = await statistics(api)
    after.uptime.CopyFrom(before.uptime)
    assert after == before
    assert await ids(api) == ["a", "b", "c"]
    assert await span_names(api, "b") == ["thought"]
    again = (await api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1, claim_id="c1"))).claims[0]
    assert again.attempt.attempt_id == claimed.attempt.attempt_id


async def test_a_dequeue_that_a_shutdown_ends_has_claimed_nothing(
    durable: StoreProcess, raw: grpc.aio.Channel, connect_to: Connect
) -> None:
    api = connect_to(durable.address)
    await statistics(api)
    held = rollout_service_pb2_grpc.RolloutServiceStub(raw).DequeueRollouts(
        v1.DequeueRolloutsRequest(limit=1, wait=seconds(30))
    )
    waiting = asyncio.ensure_future(error_of(_answer(held)))
    await asyncio.sleep(0.2)
    assert durable.stop() == 0
    assert (await waiting).reason == "SHUTTING_DOWN"
    durable.start()
    await enqueue(api, "later")
    assert (await statistics(api)).total_attempts == 0


async def test_our_client_goes_on_with_a_held_dequeue_after_a_restart(
    durable: StoreProcess, connect_to: Connect
) -> None:
    api = connect_to(durable.address)
    await statistics(api)
    held = asyncio.ensure_future(
        api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1, wait=seconds(20), claim_id="mine"))
    )
    await asyncio.sleep(0.2)
    assert durable.stop() == 0
    durable.start()
    await enqueue(connect_to(durable.address), "later")
    claims = (await asyncio.wait_for(held, 10)).claims
    assert [claim.rollout.rollout_id for claim in claims] == ["later"]


async def test_new_calls_are_refused_while_it_ends(
    durable: StoreProcess, raw: grpc.aio.Channel, connect_to: Connect
) -> None:
    health = health_pb2_grpc.HealthStub(raw)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    durable.signal(signal.SIGTERM)
    assert (await asyncio.wait_for(watch.read(), 25)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    api = connect_to(durable.address, retries=RetryPolicy(delays=()))
    with refused(Unavailable, "SERVER_UNREACHABLE"):
        await statistics(api)
    assert await asyncio.to_thread(durable.wait) == 0


async def test_writes_under_way_are_answered_and_kept(durable: StoreProcess, connect_to: Connect) -> None:
    api = connect_to(durable.address)
    await statistics(api)
    names = [f"r{number:03}" for number in range(200)]
    writes = [asyncio.ensure_future(enqueue(api, name)) for name in names]
    await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
    assert await asyncio.to_thread(durable.stop) == 0
    assert not all(write.done() and write.exception() for write in writes)
    durable.start()
    await asyncio.wait_for(asyncio.gather(*writes), 30)  # what was not answered was sent again
    assert sorted(await ids(api, v1.Page(page_size=1000))) == names


async def test_a_busy_end_leaves_no_traceback(durable: StoreProcess, connect_to: Connect, tmp_path: Path) -> None:
    api = connect_to(durable.address)
    await statistics(api)
    waiting = [
        asyncio.ensure_future(api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1, wait=seconds(30))))
        for _ in range(20)
    ]
    writing = [asyncio.ensure_future(enqueue(api, f"w{number}")) for number in range(100)]
    await asyncio.sleep(0.05)
    assert await asyncio.to_thread(durable.stop) == 0
    for call in (*waiting, *writing):
        call.cancel()
    await asyncio.gather(*waiting, *writing, return_exceptions=True)
    assert "Traceback" not in (tmp_path / "log").read_text()

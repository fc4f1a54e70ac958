"""The legacy server, as an algorithm uses it."""

from __future__ import annotations

import asyncio
import socket
import time
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agentlightning.client import AgentLightningClient
from agentlightning.emitter import emit_reward
from agentlightning.server import AgentLightningServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import RolloutLegacy, Span, Task


def made(**settings: Any) -> AgentLightningServer:
    """A server, whose deprecation is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AgentLightningServer(**{"port": 0, **settings})


@pytest_asyncio.fixture
async def server() -> AsyncIterator[AgentLightningServer]:
    """A server that runs."""
    running = made()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def client(server: AgentLightningServer) -> AgentLightningClient:
    """A client of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AgentLightningClient(server.endpoint, poll_interval=0.01)


async def answered(client: AgentLightningClient, **fields: Any) -> Task:
    """Takes a task and reports on it."""
    task = await client.poll_next_task_async()
    assert task is not None
    await client.post_rollout_async(RolloutLegacy.model_validate({"rollout_id": task.rollout_id, **fields}))
    return task


def test_it_says_that_it_is_deprecated_and_what_to_use() -> None:
    with pytest.warns(DeprecationWarning, match="AgentLightningServer is deprecated; use LightningStoreServer") as said:
        AgentLightningServer()
    assert [warning.filename for warning in said] == [__file__]


def test_its_defaults_are_those_of_older_releases() -> None:
    server = made(port=8000)
    assert (server.host, server.port, server.endpoint) == ("127.0.0.1", 8000, "http://127.0.0.1:8000")
    assert server._task_timeout_seconds == 300.0  # noqa: SLF001  a name that the API reference gives


async def test_nothing_can_be_asked_of_it_before_it_is_started() -> None:
    server = made()
    for asked in (
        server.queue_task(1),
        server.update_resources({}),
        server.get_completed_rollout("x"),
        server.poll_completed_rollout("x"),
        server.retrieve_completed_rollouts(),
    ):
        with pytest.raises(RuntimeError, match="has not been started"):
            await asked
    await server.stop()


async def test_when_it_has_started_it_answers(server: AgentLightningServer) -> None:
    assert server.port > 0
    # At once: no sleep, no retry.
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        connection.sendall(b"GET /task HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(RuntimeError, match="running already"):
        await server.start()


async def test_a_port_in_use_is_told(server: AgentLightningServer) -> None:
    other = made(port=server.port)
    with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{server.port}"):
        await other.start()
    with pytest.raises(ValueError, match="70000 is no port"):
        await made(port=70_000).start()


async def test_an_address_that_others_can_reach_must_be_wanted() -> None:
    with pytest.raises(ValueError, match=r"Refusing to listen on 0\.0\.0\.0"):
        await made(host="0.0.0.0").start()
    server = made(host="0.0.0.0", insecure=True)
    await server.start()
    await server.stop()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 86_401.0])
async def test_a_task_timeout_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="task_timeout_seconds"):
        await made(task_timeout_seconds=seconds).start()


async def test_a_stopped_server_keeps_what_it_has_and_can_go_on(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    first = await server.queue_task("x")
    second = await server.queue_task("y")
    await answered(client, final_reward=1.0)
    await server.stop()
    await server.stop()
    completed = await server.get_completed_rollout(first)
    assert completed is not None
    assert completed.final_reward == 1.0
    await server.start()
    task = await client.poll_next_task_async()
    assert task is not None
    assert task.rollout_id == second


async def test_it_runs_until_it_is_stopped_or_cancelled() -> None:
    server = made()
    running = asyncio.create_task(server.run_forever())
    while server.port == 0:  # noqa: ASYNC110  it serves in another thread
        await asyncio.sleep(0.01)
    assert not running.done()
    await server.stop()
    await asyncio.wait_for(running, 10)
    running = asyncio.create_task(server.run_forever())
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((server.host, server.port), timeout=5).close()


async def test_a_task_keeps_the_order_and_gets_an_id_of_the_old_kind(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    ids = [await server.queue_task(number) for number in range(3)]
    assert all(rollout_id.startswith("rollout-") for rollout_id in ids)
    assert (await server.update_resources({})).startswith("res-")
    tasks = [await client.poll_next_task_async() for _ in ids]
    assert [task and task.rollout_id for task in tasks] == ids


async def test_a_report_is_given_once(server: AgentLightningServer, client: AgentLightningClient) -> None:
    rollout_id = await server.queue_task("x")
    assert await server.get_completed_rollout(rollout_id) is None
    await answered(client, final_reward=0.0)
    taken = await asyncio.gather(*(server.get_completed_rollout(rollout_id) for _ in range(4)))
    assert [report.final_reward for report in taken if report is not None] == [0.0]
    assert await server.get_completed_rollout(rollout_id) is None
    assert await server.retrieve_completed_rollouts() == []


async def test_all_reports_come_in_the_order_of_their_arrival(
    server: AgentLightningServer, client: AgentLightningClient
) -> None:
    for number in range(4):
        await server.queue_task(number)
    tasks = [await client.poll_next_task_async() for _ in range(3)]
    for task in (tasks[2], tasks[0], tasks[1]):
        assert task is not None
        await client.post_rollout_async(RolloutLegacy.model_validate({"rollout_id": task.rollout_id, "task": task}))
    reports = await server.retrieve_completed_rollouts()
    assert [report.task and report.task.input for report in reports] == [2, 0, 1]
    assert await server.retrieve_completed_rollouts() == []


async def test_a_report_that_the_store_had_no_room_for_holds_no_other_up(
    server: AgentLightningServer, client: AgentLightningClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = InMemoryLightningStore(eviction_memory_threshold=8_000, safe_memory_threshold=6_000)
    monkeypatch.setattr("agentlightning.server.InMemoryLightningStore", lambda: small)
    tight = made()
    await tight.start()
    client.endpoint = tight.endpoint
    ids = [await tight.queue_task(number) for number in range(4)]
    for _ in ids:
        await answered(client, final_reward=1.0, logs=["x" * 1_500])
    reports = await tight.retrieve_completed_rollouts()
    await tight.stop()
    assert [report.rollout_id for report in reports] == ids
    rewards = [report.final_reward for report in reports]
    assert (rewards[0], rewards[-1]) == (None, 1.0)


async def test_a_report_wakes_who_waits_for_it(server: AgentLightningServer, client: AgentLightningClient) -> None:
    rollout_id = await server.queue_task("x")
    waiting = asyncio.create_task(server.poll_completed_rollout(rollout_id))
    await answered(client, final_reward=0.5)
    report = await asyncio.wait_for(waiting, 10)
    assert report is not None
    assert report.final_reward == 0.5


async def test_a_wait_of_no_time_does_not_wait(server: AgentLightningServer) -> None:
    rollout_id = await server.queue_task("x")
    begun = time.monotonic()
    assert await server.poll_completed_rollout(rollout_id, timeout=0) is None
    assert await server.poll_completed_rollout(rollout_id, timeout=0.05) is None
    assert await server.poll_completed_rollout("rollout-unknown") is None
    assert time.monotonic() - begun < 5


async def test_a_lost_task_is_handed_out_for_as_long_as_it_takes(client: AgentLightningClient) -> None:
    # The shortest time there is, and more losses than cost a rollout nothing.
    server = made(task_timeout_seconds=0.5)
    await server.start()
    try:
        rollout_id = await server.queue_task("x")
        client.endpoint = server.endpoint
        first = await client.poll_next_task_async()
        second = await asyncio.wait_for(client.poll_next_task_async(), 20)
        assert first is not None
        assert second is not None
        assert (second.rollout_id, second.num_claims) == (rollout_id, 2)
        rollout = await server.store.get_rollout_by_id(rollout_id)
        assert rollout is not None
        assert rollout.config.max_attempts > 1_000_000
        assert rollout.config.retry_condition == ["unresponsive"]
    finally:
        await server.stop()


async def test_a_rollout_that_a_new_runner_finished_can_be_read_too(server: AgentLightningServer) -> None:
    rollout_id = await server.queue_task("x", metadata={"of": "the task"})
    claimed = await server.store.dequeue_rollout()
    assert claimed is not None
    reward = emit_reward(0.25, propagate=False)
    await server.store.add_span(
        Span.from_attributes(
            attributes=reward.attributes, name=reward.name, rollout_id=rollout_id, attempt_id=claimed.attempt.attempt_id
        )
    )
    await server.store.update_attempt(rollout_id, claimed.attempt.attempt_id, status="succeeded")
    report = await server.get_completed_rollout(rollout_id)
    assert report is not None
    assert (report.final_reward, report.metadata) == (0.25, {"of": "the task"})
    assert report.trace is not None
    assert [span["name"] for span in report.trace] == [reward.name]

"""A server can send the workers home: those that wait, those at work, and those that come later."""

from __future__ import annotations

import asyncio
from pathlib import Path

from calls import HERE, enqueue, seconds
from store_process import Connect

from agentlightning import InMemoryLightningStore, LightningStoreClient, LightningStoreServer, SqliteLightningStore
from agentlightning.store.engine.engine import Engine
from agentlightning.store.server.server import StoreServer
from agentlightning.types import CancelAttempt, Drain
from lightning_store import v1


async def until_waiting(engine: Engine) -> None:
    """Returns when a claim waits at the queue."""
    while not engine._waiters._by_key:  # noqa: ASYNC110, SLF001
        await asyncio.sleep(0.01)


async def test_claims_are_answered_at_once_and_tell_to_leave(
    served: StoreServer, engine: Engine, connect_to: Connect
) -> None:
    api = connect_to(served.address)
    await enqueue(api)
    request = v1.DequeueRolloutsRequest(limit=1, worker_id="w", wait=seconds(30))
    waiting = asyncio.ensure_future(api.dequeue_rollouts(HERE, request))
    await until_waiting(engine)
    served.dismiss_workers(cancel=False)
    assert (await asyncio.wait_for(waiting, 25)).draining
    await enqueue(api, "later")
    late = await api.dequeue_rollouts(HERE, request)
    assert late.draining
    assert not late.claims
    got = await api.get_rollout(HERE, v1.GetRolloutRequest(rollout_id="later"))
    assert got.rollout.status == v1.ROLLOUT_STATUS_QUEUING


async def test_heartbeats_tell_to_leave_and_to_stop_if_that_is_wanted(served: StoreServer, connect_to: Connect) -> None:
    api = connect_to(served.address)
    await enqueue(api, "work")
    claimed = await api.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=1, worker_id="w"))
    key = v1.AttemptKey(rollout_id="work", attempt_id=claimed.claims[0].attempt.attempt_id)
    heartbeat = v1.UpdateWorkerRequest(worker_id="w", held_attempts=[key])

    async def commands() -> list[str]:
        answer = await api.update_worker(HERE, heartbeat)
        return [str(command.WhichOneof("command")) for command in answer.commands]

    assert await commands() == []
    served.dismiss_workers(cancel=False)
    assert await commands() == ["drain"]
    served.dismiss_workers(cancel=True)
    assert await commands() == ["drain", "cancel_attempt"]


async def test_the_end_of_a_run_is_no_mark_on_a_store_that_lasts(tmp_path: Path) -> None:
    for _ in range(2):
        server = LightningStoreServer(SqliteLightningStore(tmp_path / "store.db"), port=0)
        await server.start()
        client = LightningStoreClient(server.endpoint)
        await client.enqueue_rollout("work")
        claimed = await client.claim_rollouts(worker_id="w")
        assert not claimed.draining
        assert claimed.rollouts
        attempt = claimed.rollouts[0].attempt
        assert (await client.update_worker("w")).commands == []
        leaving = asyncio.create_task(server.dismiss_workers(20, cancel=True))
        while not (commands := (await client.update_worker("w", held=[_key(attempt)])).commands):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert [type(command) for command in commands] == [Drain, CancelAttempt]
        assert not leaving.done()
        await client.update_attempt(*_key(attempt), status="failed")
        assert await leaving
        assert not (await client.update_worker("w")).draining
        await client.close()
        await server.stop()
        server.store.close_now()


async def test_workers_that_do_not_leave_are_waited_for_no_longer_than_asked() -> None:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0)
    assert await server.dismiss_workers(5), "a server that does not run has no workers"
    await server.start()
    assert await server.dismiss_workers(5), "nobody was there"
    await store.enqueue_rollout("work")
    assert await store.dequeue_rollout("stuck") is not None
    assert not await server.dismiss_workers(0.2)
    assert await server.dismiss_workers(0.2, besides=["stuck"])
    await server.stop()
    store.close_now()


def _key(attempt: object) -> tuple[str, str]:
    return (attempt.rollout_id, attempt.attempt_id)  # type: ignore[attr-defined]

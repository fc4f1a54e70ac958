"""`PostgresLightningStore`: one store, in however many processes it is opened."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from postgres import SERVER

from agentlightning import LightningStoreClient, LightningStoreServer, PostgresLightningStore


@pytest.fixture
def url(quick_folder: Path) -> str:
    """A database with an empty store."""
    return SERVER.url_of(quick_folder)


async def test_two_that_are_open_on_one_database_are_one_store(url: str) -> None:
    one, other = PostgresLightningStore(url), PostgresLightningStore(url, durability="crash")
    try:
        held = asyncio.ensure_future(other.dequeue_rollout(worker_id="w1", wait=20))
        rollout = await one.enqueue_rollout(input={"task": "add"})
        claimed = await asyncio.wait_for(held, 9)
        assert claimed is not None
        assert (claimed.rollout_id, claimed.input) == (rollout.rollout_id, {"task": "add"})
        waiting = asyncio.ensure_future(one.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=20))
        await other.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded")
        assert [ended.status for ended in await asyncio.wait_for(waiting, 9)] == ["succeeded"]
    finally:
        await one.close()
        await other.close()


async def test_it_can_be_served(url: str) -> None:
    store = PostgresLightningStore(url)
    server = LightningStoreServer(store, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        rollout = await client.enqueue_rollout(input=1)
        assert [found.rollout_id for found in await store.query_rollouts()] == [rollout.rollout_id]
    finally:
        await client.close()
        await server.stop()
        await store.close()


def test_what_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    program = """
import sys
sys.modules["psycopg"] = None
import agentlightning
try:
    agentlightning.PostgresLightningStore("postgresql://nowhere/none")
except ImportError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "install agentlightning-grpc[postgres]" in said

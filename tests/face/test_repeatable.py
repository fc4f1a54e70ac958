"""Which calls are sent again: each call of the contract is decided here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from store_process import StoreProcess

from agentlightning.store.client import LightningStoreClient
from agentlightning.store.methods import METHODS
from agentlightning.store.remote.retries import is_repeatable
from agentlightning.types import LLM
from lightning_store import v1

NAMED = v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[v1.Span(trace_id=b"t", span_id=b"s")])])
NAMELESS = v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[v1.Span(trace_id=b"t", span_id=bytes(8))])])
IDS = v1.StringSet(values=["a"])
FAILED = v1.RolloutStatusSet(values=[v1.ROLLOUT_STATUS_FAILED])
REPORT = {"attempt_id": "at-1", "status": v1.ATTEMPT_STATUS_FAILED}

ALWAYS: tuple[dict[str, Any], ...] = ({},)
NEVER: tuple[dict[str, Any], ...] = ()

# For each call the requests that may be sent again, and those that may not.
DECIDED: dict[str, tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]] = {
    "start_rollout": (({"rollout": {"rollout_id": "a"}},), ({}, {"attempt_id": "at-1"})),
    "enqueue_rollouts": (({"rollouts": [{"rollout_id": "a"}]},), ({"rollouts": [{"rollout_id": "a"}, {}]},)),
    "dequeue_rollouts": (({"claim_id": "c"},), ({"limit": 1},)),
    "get_rollout": (ALWAYS, NEVER),
    "list_rollouts": (ALWAYS, NEVER),
    "update_rollout": (
        ({"mode": v1.ROLLOUT_MODE_TRAIN}, {"status": v1.ROLLOUT_STATUS_CANCELLED}),
        ({"status": v1.ROLLOUT_STATUS_QUEUING}, {"status": v1.ROLLOUT_STATUS_REQUEUING}),
    ),
    "delete_rollouts": (
        ({"rollout_id_in": IDS},),
        ({"status_in": FAILED}, {"rollout_id_in": IDS, "status_in": FAILED}),
    ),
    "wait_for_rollouts": (ALWAYS, NEVER),
    "watch_rollouts": (ALWAYS, NEVER),
    "start_attempt": (({"attempt_id": "at-1"},), ({},)),
    "update_attempt": (
        (REPORT, {"attempt_id": "latest"}, {"attempt_id": "latest", "last_heartbeat_time": {"seconds": 1}}),
        (REPORT | {"attempt_id": "latest"}, {"attempt_id": "latest", "worker_id": "w"}),
    ),
    "release_attempts": (ALWAYS, NEVER),
    "list_attempts": (ALWAYS, NEVER),
    "get_latest_attempt": (ALWAYS, NEVER),
    "add_spans": (({"resource_spans": [NAMED]},), ({"resource_spans": [NAMED, NAMELESS]},)),
    "list_spans": (ALWAYS, NEVER),
    "reserve_span_sequence_ids": (ALWAYS, NEVER),
    "add_resources": (({"resources_id": "r"},), ({},)),
    "update_resources": (({"expected_version": 0},), ({"resources_id": "r"},)),
    "get_resources": (ALWAYS, NEVER),
    "get_latest_resources": (ALWAYS, NEVER),
    "list_resources": (ALWAYS, NEVER),
    "watch_latest_resources": (ALWAYS, NEVER),
    "update_worker": (ALWAYS, NEVER),
    "get_worker": (ALWAYS, NEVER),
    "list_workers": (ALWAYS, NEVER),
    "get_server_info": (ALWAYS, NEVER),
    "get_statistics": (ALWAYS, NEVER),
    "list_experiments": (ALWAYS, NEVER),
    "delete_experiment": (NEVER, ALWAYS),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_is_decided(method: Any) -> None:
    repeatable, others = DECIDED[method.name]
    assert [is_repeatable(method.request(**fields)) for fields in repeatable] == [True] * len(repeatable)
    assert [is_repeatable(method.request(**fields)) for fields in others] == [False] * len(others)


async def test_what_is_sent_only_once_waits_for_the_server() -> None:
    server = StoreProcess()
    await asyncio.to_thread(server.start)
    client = LightningStoreClient(server.address)
    try:
        for _ in range(2):  # a client that was never answered, and one that was
            server.kill()
            updating = asyncio.ensure_future(client.update_resources("r", {"m": LLM(endpoint="e", model="m")}))
            await asyncio.sleep(0.5)
            assert not updating.done()
            await asyncio.to_thread(server.start)
            assert (await asyncio.wait_for(updating, 10)).version == 1
    finally:
        await client.close()
        server.kill()

"""A client of the Connect protocol that is not ours, in both of its forms, calls the store as it calls any server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio
from calls import enqueue, finish, get
from google.rpc.error_details_pb2 import ErrorInfo
from rest_calls import Rest

from agentlightning.store.methods import METHODS
from lightning_store import v1

pytest.importorskip("connectrpc", reason="connectrpc is not installed: `make test-http` has it")

from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType

INFOS: dict[str, MethodInfo[Any, Any]] = {
    method.name: MethodInfo(
        name=method.rpc,
        service_name=method.service,
        input=method.request,
        output=method.response,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM if method.streams else StreamType.UNARY,
    )
    for method in METHODS
}


@pytest_asyncio.fixture(params=[google_protobuf_json_codec, google_protobuf_binary_codec], ids=["json", "binary"])
async def client(request: pytest.FixtureRequest, rest: Rest) -> AsyncIterator[ConnectClient]:
    """A client, which compresses what it sends."""
    async with ConnectClient(rest.url, codec=request.param()) as opened:
        yield opened


async def call(client: ConnectClient, request: Any, **options: Any) -> Any:
    """Calls the method of a request."""
    (info,) = [info for info in INFOS.values() if info.input is type(request)]
    return await client.execute_unary(request=request, method=info, **options)


async def test_it_runs_a_rollout(client: ConnectClient, rest: Rest) -> None:
    new = v1.NewRollout(rollout_id="ro-Ω", input=v1.Payload(content_type="application/json", data=b'"\xc3\xa4"'))
    await call(client, v1.EnqueueRolloutsRequest(rollouts=[new]))
    claimed = await call(client, v1.DequeueRolloutsRequest(limit=1))
    (claim,) = claimed.claims
    assert claim.rollout.input == new.input
    key = {"rollout_id": "ro-Ω", "attempt_id": claim.attempt.attempt_id}
    await call(client, v1.UpdateAttemptRequest(**key, status=v1.ATTEMPT_STATUS_SUCCEEDED))
    assert (await get(rest.opened.api, "ro-Ω")).status == v1.ROLLOUT_STATUS_SUCCEEDED


async def test_it_understands_errors(client: ConnectClient) -> None:
    with pytest.raises(ConnectError) as caught:
        await call(client, v1.GetRolloutRequest(rollout_id="ro-1"))
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "Rollout ro-1 not found")
    (detail,) = caught.value.details
    assert detail.type_name == "google.rpc.ErrorInfo"
    assert ErrorInfo.FromString(detail.message_bytes).reason == "ROLLOUT_NOT_FOUND"


async def test_it_names_experiments(client: ConnectClient) -> None:
    with pytest.raises(ConnectError, match="Experiment mnie not found"):
        await call(client, v1.ListRolloutsRequest(), headers={"agl-experiment": "mnie"})


async def test_its_time_limits_are_kept(client: ConnectClient, rest: Rest) -> None:
    with pytest.raises(ConnectError) as caught:
        await call(client, v1.DequeueRolloutsRequest(limit=1, wait={"seconds": 60}), timeout_ms=50)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await rest.opened.until_waiting(0)


async def test_it_reads_streams_and_leaves_them(client: ConnectClient, rest: Rest) -> None:
    api = rest.opened.api
    await enqueue(api, "ro-1")
    waiting = client.execute_server_stream(
        request=v1.WaitForRolloutsRequest(rollout_ids=["ro-1"]), method=INFOS["wait_for_rollouts"]
    )
    first = asyncio.ensure_future(anext(waiting))
    await rest.opened.until_waiting()
    await finish(api, "ro-1")
    assert (await first).finished.rollout_id == "ro-1"
    assert [message.WhichOneof("event") async for message in waiting] == ["done"]
    watching = client.execute_server_stream(request=v1.WatchRolloutsRequest(), method=INFOS["watch_rollouts"])
    async with aclosing(watching):
        assert (await anext(watching)).caught_up
        await rest.opened.until_waiting()
    await rest.opened.until_waiting(0)


async def test_it_hears_how_a_stream_failed(client: ConnectClient) -> None:
    with pytest.raises(ConnectError) as caught:
        async for _ in client.execute_server_stream(
            request=v1.WatchRolloutsRequest(cursor="x"), method=INFOS["watch_rollouts"]
        ):
            pass
    assert caught.value.code is Code.INVALID_ARGUMENT

"""Methods that answer with a stream, and calls that are held, over plain HTTP."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio
from calls import HERE, enqueue, finish, publish, queue, update
from connect_calls import Answers, Caller, Fault, enveloped, fault_of, packed_details, refusal
from rest_calls import Rest
from stores import OpenStore

from agentlightning.rest.app import create_app
from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.rest.serving import RestServer
from agentlightning.store.face import StoreFace
from lightning_store import v1

HELD = {"limit": 1, "wait": "60s", "workerId": "w"}
SHUTTING_DOWN = Fault("unavailable", "SHUTTING_DOWN")
LATE = Fault("deadline_exceeded", "DEADLINE_EXCEEDED")


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as opened:
        yield opened


@pytest.fixture
def caller(rest: Rest, client: httpx.AsyncClient) -> Caller:
    """Calls each kind of store."""
    return Caller(rest.url, client)


@pytest.fixture
def local(local_rest: Rest, client: httpx.AsyncClient) -> Caller:
    """Calls a store in memory: for what has nothing to do with the kind of store."""
    return Caller(local_rest.url, client)


async def test_rollouts_are_told_the_moment_they_finish(rest: Rest, caller: Caller) -> None:
    api = rest.opened.api
    await enqueue(api, "ro-1", "ro-2")
    await finish(api, "ro-1")
    async with caller.stream("WaitForRollouts", {"rolloutIds": ["ro-1", "ro-2", "ro-3"]}) as answers:
        first = [await answers.json(), await answers.json()]
        assert {"notFoundRolloutId": "ro-3"} in first
        assert [one["finished"]["rolloutId"] for one in first if "finished" in one] == ["ro-1"]
        await rest.opened.until_waiting()
        await finish(api, "ro-2")
        assert (await answers.json())["finished"]["status"] == "ROLLOUT_STATUS_SUCCEEDED"
        assert await answers.json() == {"done": {}}
        assert await answers.end() == {}


async def test_streams_come_in_binary_too(rest: Rest, caller: Caller) -> None:
    await enqueue(rest.opened.api, "ro-1")
    await finish(rest.opened.api, "ro-1")
    request = v1.WaitForRolloutsRequest(rollout_ids=["ro-1"])
    expected = [message async for message in rest.opened.api.wait_for_rollouts(HERE, request)]
    async with caller.stream("WaitForRollouts", enveloped(request.SerializeToString()), form="proto") as answers:
        for message in expected:
            assert await answers.next() == (0, message.SerializeToString())
        assert await answers.end() == {}


async def test_the_latest_resources_are_told_as_they_are_published(rest: Rest, caller: Caller) -> None:
    async with caller.stream("WatchLatestResources") as answers:
        await rest.opened.until_waiting()
        for name in ("rs-1", "rs-2"):
            await publish(rest.opened.api, name)
            assert (await answers.json())["resources"]["resourcesId"] == name


async def test_a_watcher_that_hangs_up_is_forgotten(rest: Rest, caller: Caller) -> None:
    api = rest.opened.api
    async with caller.stream("WatchRollouts") as answers:
        assert (await answers.json())["caughtUp"] is True
        await enqueue(api, "ro-1")
        (change,) = (await answers.json())["changes"]
        assert change["rollout"]["rolloutId"] == "ro-1"
        await rest.opened.until_waiting()
    await rest.opened.until_waiting(0)


async def test_how_a_stream_failed_stands_at_its_end(caller: Caller) -> None:
    async with caller.stream("WatchRollouts", {"cursor": "nonsense"}) as answers:
        end = await answers.end()
    assert fault_of(end["error"]) == Fault("invalid_argument", "CURSOR_INVALID")
    async with caller.stream("WatchRollouts", headers={"agl-experiment": "mnie"}) as answers:
        end = await answers.end()
    assert fault_of(end["error"]) == Fault("not_found", "EXPERIMENT_NOT_FOUND")
    assert dict(packed_details(end["error"])[0].metadata) == {"experiment": "mnie"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\0\0\0\0",
        b"\0\0\0\0\3{}",
        b"\0\0\0\0\1{}",
        enveloped(b"{}") * 2,
        enveloped(b"{}", 2),
        enveloped(b"{}", 1),
        enveloped(b"{}", 128),
        enveloped(b"[]"),
        enveloped(b""),
    ],
)
async def test_a_body_that_is_not_one_message_in_its_envelope_is_refused(body: bytes, local: Caller) -> None:
    async with local.stream("WatchRollouts", body) as answers:
        assert fault_of((await answers.end())["error"]) == Fault("invalid_argument", "MALFORMED_REQUEST")


async def test_a_message_in_an_envelope_may_be_compressed(local: Caller) -> None:
    packed = gzip.compress(b'{"rolloutIds": ["ro-1"]}')
    headers = {"connect-content-encoding": "gzip", "connect-accept-encoding": "gzip"}
    async with local.stream("WaitForRollouts", enveloped(packed, 1), headers=headers) as answers:
        assert await answers.json() == {"notFoundRolloutId": "ro-1"}
    async with local.stream("WaitForRollouts", enveloped(b'{"rolloutIds": ["ro-1"]}'), headers=headers) as answers:
        assert await answers.json() == {"notFoundRolloutId": "ro-1"}
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    async with local.stream("WaitForRollouts", enveloped(bomb, 1), headers=headers) as answers:
        assert fault_of((await answers.end())["error"]) == Fault("resource_exhausted", "MESSAGE_TOO_LARGE")


async def test_a_stream_ends_when_the_callers_time_is_up(rest: Rest, caller: Caller) -> None:
    headers = {"connect-timeout-ms": "50"}
    async with caller.stream("WatchLatestResources", headers=headers) as answers:
        assert fault_of((await answers.end())["error"]) == LATE
    await rest.opened.until_waiting(0)


async def test_a_held_claim_is_answered_when_work_arrives(rest: Rest, caller: Caller) -> None:
    claiming = asyncio.create_task(caller.call("DequeueRollouts", HELD))
    await rest.opened.until_waiting()
    await enqueue(rest.opened.api, "ro-1")
    assert [claim["rollout"]["rolloutId"] for claim in (await claiming)["claims"]] == ["ro-1"]


async def test_a_caller_whose_time_is_up_claims_nothing(rest: Rest, caller: Caller) -> None:
    answer = await caller.post("DequeueRollouts", HELD, headers={"connect-timeout-ms": "50"})
    assert refusal(answer, 504) == LATE
    await rest.opened.until_waiting(0)
    await enqueue(rest.opened.api, "ro-1")
    assert await queue(rest.opened.api) == ["ro-1"]


async def test_a_caller_that_hangs_up_claims_nothing(rest: Rest, caller: Caller) -> None:
    claiming = asyncio.create_task(caller.call("DequeueRollouts", HELD))
    await rest.opened.until_waiting()
    claiming.cancel()
    await asyncio.wait({claiming})
    await rest.opened.until_waiting(0)
    await enqueue(rest.opened.api, "ro-1")
    assert await queue(rest.opened.api) == ["ro-1"]


@asynccontextmanager
async def serving(store: OpenStore) -> AsyncIterator[RestServer]:
    """Serves a store by a server of its own."""
    server = RestServer(create_app(StoreFace(store.api)), port=0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_a_server_that_stops_lets_those_go_who_wait(store: OpenStore, client: httpx.AsyncClient) -> None:
    async with serving(store) as server:
        caller = Caller(server.url, client)
        claiming = asyncio.create_task(caller.post("DequeueRollouts", HELD))
        async with caller.stream("WatchLatestResources") as answers:
            await store.until_waiting(2)
            await server.stop()
            ended = await answers.end()
        answer = await claiming
    assert fault_of(ended["error"]) == SHUTTING_DOWN
    assert refusal(answer, 503) == SHUTTING_DOWN
    assert answer.headers["retry-after"] == "1"
    for error in (ended["error"], answer.json()):
        retry = packed_details(error)[1]
        assert retry is not None
        assert retry.retry_delay.ToSeconds() == 1
    assert any(detail["debug"] == {"retryDelay": "1s"} for detail in answer.json()["details"])
    await store.until_waiting(0)


async def test_several_watchers_see_the_same(rest: Rest, caller: Caller) -> None:
    async def finished_of(answers: Answers) -> set[str]:
        return {(await answers.json())["finished"]["rolloutId"] for _ in range(2)}

    await enqueue(rest.opened.api, "ro-1", "ro-2")
    wanted = {"rolloutIds": ["ro-1", "ro-2"]}
    async with caller.stream("WaitForRollouts", wanted) as one, caller.stream("WaitForRollouts", wanted) as other:
        await rest.opened.until_waiting(2)
        await update(rest.opened.api, "ro-2", status=v1.ROLLOUT_STATUS_CANCELLED)
        await finish(rest.opened.api, "ro-1")
        assert await finished_of(one) == await finished_of(other) == {"ro-1", "ro-2"}

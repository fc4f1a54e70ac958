"""Methods that answer with one message, over plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from calls import HERE, add_spans, enqueue, finish, get, publish, span, start_attempt
from connect_calls import BY_RPC, JSON, PROTO, Caller, Fault, packed_details, refusal
from google.protobuf.message import Message
from rest_calls import Rest, Switchboard

from agentlightning.rest.app import create_app
from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.rest.serving import RestServer
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.errors import StoreError
from agentlightning.store.face import StoreFace
from agentlightning.store.methods import METHODS
from lightning_store import v1

UNARY = [method.rpc for method in METHODS if not method.streams]
MALFORMED = Fault("invalid_argument", "MALFORMED_REQUEST")
TOO_LARGE = Fault("resource_exhausted", "MESSAGE_TOO_LARGE")
LARGEST = 2**63 - 1


def in_base64(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize("rpc", UNARY)
async def test_every_method_answers_as_the_store_does_in_both_forms(rpc: str, local_rest: Rest, local: Caller) -> None:
    method = BY_RPC[rpc]
    expected: Any
    try:
        answer = await getattr(local_rest.opened.api, method.name)(HERE, method.request())
        expected = set(answer.DESCRIPTOR.fields_by_name)
    except StoreError as error:
        expected = Fault(error.code.lower(), error.reason)

    def seen(answer: httpx.Response, kind: str) -> Any:
        if answer.status_code != 200:
            return refusal(answer, answer.status_code)
        assert answer.headers["content-type"] == kind
        if kind == PROTO:
            return set(method.response.FromString(answer.content).DESCRIPTOR.fields_by_name)
        known = {field.json_name: field.name for field in method.response.DESCRIPTOR.fields}
        assert answer.json().keys() <= known.keys()
        return set(known.values())

    assert seen(await local.post(rpc), JSON) == expected
    assert seen(await local.post(rpc, b"", content_type=PROTO), PROTO) == expected


async def test_a_rollout_can_be_run_from_begin_to_end_in_json(rest: Rest, caller: Caller) -> None:
    task = {"question": "¿6·7? 🦉 \u0000", "number": LARGEST}
    new = {"rolloutId": "ro-Ω", "input": {"contentType": JSON, "data": in_base64(task)}, "mode": "ROLLOUT_MODE_TRAIN"}
    (made,) = (await caller.call("EnqueueRollouts", {"rollouts": [new]}))["rollouts"]
    assert (made["rolloutId"], made["status"]) == ("ro-Ω", "ROLLOUT_STATUS_QUEUING")

    (claim,) = (await caller.call("DequeueRollouts", {"limit": 1, "workerId": "curl", "lease": "30s"}))["claims"]
    attempt_id = claim["attempt"]["attemptId"]
    key = {"rolloutId": "ro-Ω", "attemptId": attempt_id}
    ids = {"traceId": base64.b64encode(b"t" * 16).decode(), "spanId": base64.b64encode(b"s" * 8).decode()}
    count = {"key": "count", "value": {"intValue": str(LARGEST)}}
    span = {**key, **ids, "name": "agl.reward ✓", "startTimeUnixNano": "1700000000000000001", "attributes": [count]}
    await caller.call("AddSpans", {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    await caller.call("UpdateAttempt", {**key, "status": "ATTEMPT_STATUS_SUCCEEDED"})

    (group,) = (await caller.call("ListSpans", {"rolloutId": "ro-Ω"}))["resourceSpans"]
    (listed,) = group["scopeSpans"][0]["spans"]
    assert (listed["name"], listed["startTimeUnixNano"]) == ("agl.reward ✓", "1700000000000000001")
    assert listed["attributes"] == [count]
    ended = await rest.store.get_rollout_by_id("ro-Ω")
    assert ended is not None
    assert (ended.status, ended.mode, ended.input) == ("succeeded", "train", task)
    assert [one.attributes["count"] for one in await rest.store.query_spans("ro-Ω")] == [LARGEST]


async def test_binary_messages_come_as_the_store_has_them(rest: Rest, caller: Caller) -> None:
    await enqueue(rest.opened.api, "ro-1", "ro-2")
    request = v1.ListRolloutsRequest(page=v1.Page(page_size=1, with_total_size=True))
    expected = await rest.opened.api.list_rollouts(HERE, request)
    answer = await caller.call_binary("ListRollouts", request)
    assert answer.rollouts == expected.rollouts
    assert answer.page_info.total_size == 2

    attempt = await start_attempt(rest.opened.api, "ro-1")
    await add_spans(rest.opened.api, span(attempt, "one"), span(attempt, "two"))
    spans = v1.ListSpansRequest(rollout_id="ro-1")
    expected_spans = await rest.opened.api.list_spans(HERE, spans)
    assert len(expected_spans.resource_spans) == 1
    assert await caller.call_binary("ListSpans", spans) == expected_spans
    unknown = await caller.post(
        "ListSpans", spans.SerializeToString(), content_type=PROTO, headers={"agl-experiment": "no"}
    )
    assert unknown.status_code == 404


async def test_numbers_of_64_bits_may_be_numbers_in_a_request_and_are_strings_in_an_answer(local: Caller) -> None:
    await local.call("EnqueueRollouts", {"rollouts": [{"rolloutId": "ro-1"}, {"rolloutId": "ro-2"}]})
    for one in (1, "1"):
        answer = await local.call("ListRollouts", {"page": {"skip": one, "with_total_size": True}})
        assert [rollout["rolloutId"] for rollout in answer["rollouts"]] == ["ro-2"]
        assert answer["pageInfo"] == {"totalSize": "2"}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "no JSON object"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'"ro-1"', "no JSON object"),
        (b"{", "Failed to load JSON"),
        (b'{"rolloutId": "\xff"}', "can't decode byte"),
        (b'{"rolloutId": "\\ud800"}', "rolloutId"),
        (b'{"rolloutId": 5}', "rolloutId"),
        (b'{"rolloutID": "ro-1"}', "rolloutID"),
        (b'{"rolloutId": "a", "rolloutId": "b"}', "rolloutId"),
        (b'{"rolloutId": ' + b"[" * 100_000, "Failed to"),
        (b'{"rolloutId": ' + b"9" * 100_000 + b"}", "Failed to"),
    ],
)
async def test_what_is_no_request_in_json_is_refused_and_named(body: bytes, named: str, local: Caller) -> None:
    answer = await local.post("GetRollout", body)
    assert refusal(answer, 400) == MALFORMED
    assert named in answer.json()["message"]
    assert len(answer.content) < 2500


async def test_a_large_message_goes_through_whole(caller: Caller) -> None:
    text = "ä" * 100_000
    new = {"rolloutId": "ro-1", "input": {"contentType": JSON, "data": in_base64(text)}}
    await caller.call("EnqueueRollouts", {"rollouts": [new]})
    answer = await caller.call("GetRollout", {"rolloutId": "ro-1"})
    assert json.loads(base64.b64decode(answer["rollout"]["input"]["data"])) == text


async def test_what_is_no_request_in_binary_is_refused(local: Caller) -> None:
    assert refusal(await local.post("GetRollout", b"\x0a\xff", content_type=PROTO), 400) == MALFORMED


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("connect-protocol-version", "2"),
        ("connect-timeout-ms", "-1"),
        ("connect-timeout-ms", "1.5"),
        ("connect-timeout-ms", "12345678901"),
        ("connect-timeout-ms", ""),
    ],
)
async def test_headers_that_cannot_be_are_refused(header: str, value: str, local: Caller) -> None:
    answer = await local.post("ListRollouts", headers={header: value})
    assert refusal(answer, 400) == MALFORMED
    assert header in answer.json()["message"]


@pytest.mark.parametrize("name", ["größer".encode(), b"a\tb"])
async def test_a_name_that_no_experiment_can_be_called_by_is_refused(name: bytes, caller: Caller) -> None:
    headers: Any = [("Content-Type", JSON), ("agl-experiment", name)]
    answer = await caller.client.post(caller.url + BY_RPC["ListRollouts"].path, content=b"{}", headers=headers)
    assert refusal(answer, 400) == Fault("invalid_argument", "INVALID_ID")


async def test_what_a_client_of_the_protocol_sends_along_is_taken(local: Caller) -> None:
    headers = {"connect-protocol-version": "1", "connect-timeout-ms": "9999999999", "accept-encoding": "gzip, br"}
    answer = await local.post("ListRollouts", {}, content_type="Application/JSON; charset=utf-8", headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
@pytest.mark.parametrize("rpc", ["GetRollout", "WatchRollouts"])
async def test_other_types_of_content_are_told_what_is_taken(content_type: str, rpc: str, local: Caller) -> None:
    answer = await local.post(rpc, {}, content_type=content_type)
    kind = "connect+" if BY_RPC[rpc].streams else ""
    assert answer.status_code == 415
    assert answer.headers["accept-post"] == f"application/{kind}json, application/{kind}proto"
    assert answer.json()["code"] == "unknown"
    assert rpc in answer.json()["message"]


@pytest.mark.parametrize(
    ("rpc", "content_type"),
    [("GetRollout", "application/connect+json"), ("WatchRollouts", JSON), ("WatchRollouts", PROTO)],
)
async def test_streams_and_single_answers_have_types_of_their_own(rpc: str, content_type: str, local: Caller) -> None:
    assert (await local.post(rpc, {}, content_type=content_type)).status_code == 415


async def test_a_method_that_does_not_exist_is_unimplemented(local: Caller) -> None:
    answer = await local.client.post(f"{local.url}/lightning_store.v1.RolloutService/Fly", json={})
    assert refusal(answer, 501) == Fault("unimplemented", "UNKNOWN_METHOD")
    assert packed_details(answer.json())[0].metadata == {"method": "/lightning_store.v1.RolloutService/Fly"}
    # Clients of the protocol take these for the same.
    for path in ("/lightning_store.v1.FlightService/Fly", "/lightning_store.v1.RolloutService", "/Fly"):
        assert (await local.client.post(local.url + path, json={})).status_code == 404


async def test_only_posts_are_calls(local: Caller) -> None:
    answer = await local.client.get(local.url + BY_RPC["GetRollout"].path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_an_error_of_the_store_comes_with_all_that_the_contract_says_of_it(caller: Caller) -> None:
    answer = await caller.post("GetRollout", {"rolloutId": "ro-1"})
    assert refusal(answer, 404) == Fault("not_found", "ROLLOUT_NOT_FOUND")
    assert answer.json()["message"] == "Rollout ro-1 not found"
    info, retry = packed_details(answer.json())
    assert dict(info.metadata) == {"rollout_id": "ro-1"}
    assert retry is None
    assert "retry-after" not in answer.headers


async def test_each_kind_of_error_has_the_status_of_the_protocol(rest: Rest, caller: Caller) -> None:
    await enqueue(rest.opened.api, "ro-1")
    await publish(rest.opened.api, "rs-1")
    again = {"rollouts": [{"rolloutId": "ro-1", "resourcesId": "other"}]}
    assert refusal(await caller.post("EnqueueRollouts", again), 409) == ("already_exists", "ROLLOUT_EXISTS")
    assert refusal(await caller.post("DeleteRollouts"), 400) == ("invalid_argument", "SELECTOR_REQUIRED")
    newer = {"resourcesId": "rs-1", "expectedVersion": "5"}
    assert refusal(await caller.post("UpdateResources", newer), 409).code == "aborted"


async def test_a_fault_of_the_server_is_logged_and_not_told(
    local_rest: Rest,
    client: httpx.AsyncClient,
    switchboard: Switchboard,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(context: object, request: Message) -> Message:
        raise RuntimeError("the secret of the house")

    engine = local_rest.opened.engine
    monkeypatch.setattr(engine, "get_rollout", fail)
    with caplog.at_level(logging.ERROR), switchboard.serving(StoreFace(engine)) as url:
        answer = await Caller(url, client).post("GetRollout", {"rolloutId": "ro-1"})
    assert refusal(answer, 500) == Fault("internal", "INTERNAL")
    assert "secret" not in answer.text
    assert "the secret of the house" in caplog.text


async def test_a_store_that_cannot_be_reached_is_unavailable(
    client: httpx.AsyncClient, switchboard: Switchboard
) -> None:
    nowhere = LightningStoreClient("127.0.0.1:1", retry_delays=[], connection_timeout=0.1)
    with switchboard.serving(nowhere) as url:
        answer = await Caller(url, client).post("GetRollout", {"rolloutId": "ro-1"})
        assert refusal(answer, 503) == Fault("unavailable", "SERVER_UNREACHABLE")
        async with Caller(url, client).stream("WatchRollouts") as answers:
            assert (await answers.end())["error"]["code"] == "unavailable"
    await nowhere.close()


async def test_experiments_are_named_by_a_header(rest: Rest, caller: Caller) -> None:
    await caller.call("EnqueueRollouts", {"rollouts": [{"rolloutId": "ro-1"}]}, **{"agl-experiment": "mine"})
    assert (await get(rest.opened.api, "ro-1", "mine")).rollout_id == "ro-1"
    assert await caller.call("ListRollouts", **{"agl-experiment": "default"}) == await caller.call("ListRollouts")
    assert refusal(await caller.post("GetRollout", {"rolloutId": "ro-1"}), 404).reason == "ROLLOUT_NOT_FOUND"
    answer = await caller.post("ListRollouts", headers={"agl-experiment": "mnie"})
    assert refusal(answer, 404) == Fault("not_found", "EXPERIMENT_NOT_FOUND")


async def test_a_call_that_names_no_experiment_works_on_the_one_that_is_served(
    local_rest: Rest, client: httpx.AsyncClient, switchboard: Switchboard
) -> None:
    with switchboard.serving(StoreFace(local_rest.opened.api, experiment="mine")) as url:
        await Caller(url, client).call("EnqueueRollouts", {"rollouts": [{"rolloutId": "ro-1"}]})
    assert (await get(local_rest.opened.api, "ro-1", "mine")).rollout_id == "ro-1"


@pytest.mark.parametrize("content_type", [JSON, PROTO])
async def test_bodies_may_be_compressed(content_type: str, local_rest: Rest, local: Caller) -> None:
    await enqueue(local_rest.opened.api, "ro-1")
    request = v1.GetRolloutRequest(rollout_id="ro-1")
    plain = b'{"rolloutId": "ro-1"}' if content_type == JSON else request.SerializeToString()
    for body, encoding in ((gzip.compress(plain), "gzip"), (plain, "identity")):
        headers = {"Content-Encoding": encoding}
        assert (await local.post("GetRollout", body, content_type=content_type, headers=headers)).status_code == 200


async def test_compressions_that_are_unknown_or_untrue_are_refused(local: Caller) -> None:
    answer = await local.post("ListRollouts", {}, headers={"Content-Encoding": "br"})
    assert refusal(answer, 501).code == "unimplemented"
    assert "gzip" in answer.json()["message"]
    whole = gzip.compress(b'{"page": {}}')
    for body in (b"{}", whole[:-1], whole[:-8] + b"\0" * 8, b"\x1f\x8b", whole + b"?"):
        assert refusal(await local.post("ListRollouts", body, headers={"Content-Encoding": "gzip"}), 400) == MALFORMED


async def test_a_small_body_that_unpacks_into_a_large_one_is_refused(local: Caller) -> None:
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    assert len(bomb) < 100_000
    headers = {"Content-Encoding": "gzip"}
    for content_type in (JSON, PROTO):
        answer = await local.post("ListRollouts", bomb, content_type=content_type, headers=headers)
        assert refusal(answer, 429) == TOO_LARGE
    # One that unpacks itself again and again goes on to be what it is: no JSON.
    twice = gzip.compress(gzip.compress(b" " * 2**20))
    assert refusal(await local.post("ListRollouts", twice, headers=headers), 400) == MALFORMED
    # The legacy routes unpack nothing.
    answer = await local.client.post(
        f"{local.url}/rollout", content=bomb, headers={"Content-Type": JSON, "Content-Encoding": "gzip"}
    )
    assert answer.status_code == 400


async def test_a_body_that_is_too_large_is_refused_in_the_protocols_words(local: Caller) -> None:
    async def endless() -> AsyncIterator[bytes]:
        piece = b" " * 2**20
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield piece

    url = local.url + BY_RPC["ListRollouts"].path
    answer = await local.client.post(url, content=endless(), headers={"Content-Type": JSON})
    assert refusal(answer, 429) == TOO_LARGE
    reader, writer = await asyncio.open_connection("127.0.0.1", int(local.url.rpartition(":")[2]))
    head = f"POST {BY_RPC['ListRollouts'].path} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n"
    writer.write(f"{head}Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
    writer.close()


async def test_writes_are_finished_for_callers_in_step(rest: Rest, caller: Caller) -> None:
    names = [f"ro-{number}" for number in range(20)]
    await asyncio.gather(*[caller.call("EnqueueRollouts", {"rollouts": [{"rolloutId": name}]}) for name in names])
    await finish(rest.opened.api, "ro-7")
    listed = await caller.call("ListRollouts", {"filter": {"statusIn": {"values": ["ROLLOUT_STATUS_SUCCEEDED"]}}})
    assert [rollout["rolloutId"] for rollout in listed["rollouts"]] == ["ro-7"]
    everything = await caller.call("ListRollouts", {"page": {"pageSize": 1000}})
    assert sorted(rollout["rolloutId"] for rollout in everything["rollouts"]) == sorted(names)


@pytest.mark.parametrize("origins", [(), ("http://localhost:3000",), ("*",)])
async def test_pages_of_other_origins_may_call_only_if_they_were_named(
    origins: tuple[str, ...], local_rest: Rest, client: httpx.AsyncClient
) -> None:
    server = RestServer(create_app(local_rest.store, cors_origins=origins), port=0)
    await server.start()
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "agl-experiment,content-type"}
    url = server.url + BY_RPC["ListRollouts"].path
    for origin in ("http://localhost:3000", "https://elsewhere.example"):
        may = "*" in origins or origin in origins
        asked = await client.options(url, headers={"Origin": origin, **asks})
        called = await client.post(url, json={}, headers={"Origin": origin})
        for answer in (asked, called):
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed in ((origin, "*") if may else (None,))
            assert "access-control-allow-credentials" not in answer.headers
        assert (asked.status_code == 200) is may
    await server.stop()

"""The store's routes of 0.2.2: what clients of that release send and expect, on every kind of store."""

from __future__ import annotations

import asyncio
from typing import Any

from rest_calls import Rest, request, span

UNSET = {"_type": "UNSET"}


async def test_a_rollout_goes_its_way_from_the_queue_to_its_end(rest: Rest) -> None:
    wanted = {"input": {"q": 1}, "mode": "train", "resources_id": "rs-1", "config": None, "metadata": {"a": 1}}
    rollout = (await rest.call("/enqueue_rollout", wanted)).json
    assert (rollout["status"], rollout["input"], rollout["metadata"]) == ("queuing", {"q": 1}, {"a": 1})
    claimed = await rest.get("/dequeue_rollout")
    assert (claimed.status, claimed.headers["cache-control"]) == (200, "no-store")
    attempt = claimed.json["attempt"]
    key = {"rollout_id": rollout["rollout_id"], "attempt_id": attempt["attempt_id"]}
    assert (await rest.get(f"/get_next_span_sequence_id/{key['rollout_id']}/{key['attempt_id']}")).json == 1
    assert (await rest.call("/add_span", span(claimed.json, 1))).json["sequence_id"] == 1
    changed = {**key, "status": "succeeded", "worker_id": "w", "last_heartbeat_time": 1_700_000_000.5, "metadata": {}}
    assert (await rest.call("/update_attempt", changed)).json["status"] == "succeeded"
    waited = await rest.call("/wait_for_rollouts", {"rollout_ids": [key["rollout_id"], "ro-x"], "timeout": 0.1})
    assert [done["status"] for done in waited.json] == ["succeeded"]
    for place in ("", "?attempt_id=latest", f"?attempt_id={key['attempt_id']}"):
        assert [one["name"] for one in (await rest.get(f"/query_spans/{key['rollout_id']}{place}")).json] == ["step 1"]
    assert (await rest.get(f"/query_attempts/{key['rollout_id']}")).json[0]["worker_id"] == "w"
    assert (await rest.get(f"/get_latest_attempt/{key['rollout_id']}")).json["attempt_id"] == key["attempt_id"]
    assert (await rest.get(f"/get_rollout_by_id/{key['rollout_id']}")).json["status"] == "succeeded"


async def test_a_span_that_was_stored_before_comes_back_all_the_same(local_rest: Rest) -> None:
    rollout = (await local_rest.call("/start_rollout", {"input": "x"})).json
    for _ in range(2):
        assert (await local_rest.call("/add_span", span(rollout, 1))).json == span(rollout, 1)
    assert len((await local_rest.get(f"/query_spans/{rollout['rollout_id']}")).json) == 1


async def test_what_there_is_not_is_null_and_no_error(rest: Rest) -> None:
    for path in (
        "dequeue_rollout",
        "get_rollout_by_id/x",
        "get_latest_attempt/x",
        "get_latest_resources",
        "get_resources_by_id/x",
    ):
        answer = await rest.get(f"/{path}")
        assert (answer.status, answer.body) == (200, b"null")
    for path in ("query_attempts/x", "query_spans/x"):
        assert (await rest.get(f"/{path}")).json == []


async def test_a_change_leaves_what_it_does_not_name_or_calls_unset(local_rest: Rest) -> None:
    rollout = (await local_rest.call("/start_rollout", {"input": "x", "mode": "train", "metadata": {"a": 1}})).json
    key = {"rollout_id": rollout["rollout_id"]}
    unset = {"input": UNSET, "mode": UNSET, "resources_id": UNSET, "status": UNSET, "config": UNSET}
    changed = (await local_rest.call("/update_rollout", {**key, **unset, "metadata": {"b": 2}})).json
    assert (changed["input"], changed["mode"], changed["status"], changed["metadata"]) == (
        "x",
        "train",
        "preparing",
        {"b": 2},
    )
    assert (await local_rest.call("/update_rollout", {**key, "mode": None})).json["mode"] is None
    assert (await local_rest.call("/update_rollout", {**key, "status": "cancelled"})).json["status"] == "cancelled"
    attempt = {**key, "attempt_id": "latest", "status": UNSET, "metadata": {"c": 3}}
    assert (await local_rest.call("/update_attempt", attempt)).json["status"] == "preparing"
    for body, path in (({**key, "status": None}, "/update_rollout"), ({**attempt, "status": None}, "/update_attempt")):
        assert (await local_rest.call(path, body)).status == 400


async def test_rollouts_are_listed_by_status_and_id(local_rest: Rest) -> None:
    first = (await local_rest.call("/enqueue_rollout", {"input": 1})).json
    second = (await local_rest.call("/start_rollout", {"input": 2})).json

    async def inputs(**query: Any) -> list[Any]:
        return [one["input"] for one in (await local_rest.call("/query_rollouts", query)).json]

    assert await inputs(status=None, rollout_ids=None) == await inputs() == [1, 2]
    assert await inputs(status=["queuing"]) == await inputs(rollout_ids=[first["rollout_id"]]) == [1]
    assert await inputs(status=["queuing"], rollout_ids=[second["rollout_id"]]) == await inputs(status=[]) == []


async def test_a_further_attempt_is_begun(local_rest: Rest) -> None:
    rollout = (await local_rest.call("/start_rollout", {"input": "x"})).json
    again = (await local_rest.call("/start_attempt", {"rollout_id": rollout["rollout_id"]})).json
    assert again["attempt"]["sequence_id"] == 2


async def test_resources_are_published_and_replaced(local_rest: Rest) -> None:
    llm = {"resource_type": "llm", "endpoint": "http://x/v1", "model": "m", "sampling_parameters": {}, "api_key": None}
    added = (await local_rest.call("/add_resources", {"resources": {"llm": llm}})).json
    assert added["resources"] == {"llm": llm}
    replaced = (await local_rest.call("/update_resources", {"resources_id": "rs-mine", "resources": {}})).json
    assert (await local_rest.get("/get_latest_resources")).json == replaced
    assert (await local_rest.get(f"/get_resources_by_id/{added['resources_id']}")).json == added


async def test_what_is_wrong_with_a_call_is_told_and_is_not_worth_a_second_try(local_rest: Rest) -> None:
    for path, body, status in (
        ("/start_attempt", {"rollout_id": "ro-x"}, 404),
        ("/update_rollout", {"rollout_id": "ro-x", "status": "failed"}, 404),
        ("/update_attempt", {"rollout_id": "ro-x", "attempt_id": "latest"}, 404),
        ("/update_rollout", {"status": "failed"}, 400),
        ("/update_rollout", [1], 400),
        ("/enqueue_rollout", {}, 400),
        ("/enqueue_rollout", {"input": float("nan")}, 400),
        ("/add_resources", {}, 400),
        ("/query_rollouts", {"status": ["lost"]}, 400),
    ):
        answer = await local_rest.call(path, body)
        assert (answer.status, answer.json.keys()) == (status, {"detail"}), answer.body
    answer = await asyncio.to_thread(request, local_rest.url + "/get_next_span_sequence_id/ro-x/at-x")
    assert (answer.status, answer.json["detail"]) == (404, "Rollout ro-x not found")


async def test_a_claim_without_a_lease_stays_with_its_client(local_rest: Rest) -> None:
    await local_rest.call("/enqueue_rollout", {"input": "x"})
    assert (await local_rest.get("/dequeue_rollout")).json["input"] == "x"
    local_rest.opened.pass_time(100 * 24 * 3600)
    assert (await local_rest.get("/dequeue_rollout")).json is None

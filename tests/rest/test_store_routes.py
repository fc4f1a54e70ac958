"""The store's routes of 0.3.0: what clients of that release send and expect, on every kind of store."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rest_calls import Answer, Rest, Switchboard, request, span
from stores import OpenStore, Variant

from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.face import StoreFace
from agentlightning.types import AttemptedRollout, ResourcesUpdate, Rollout, Span, Worker

AGL = "/v1/agl"


async def started(rest: Rest, **fields: Any) -> dict[str, Any]:
    answer = await rest.call(f"{AGL}/rollouts", {"input": "x", **fields})
    assert answer.status == 201
    rollout: dict[str, Any] = answer.json
    return rollout


async def listed(rest: Rest, path: str, body: dict[str, Any]) -> tuple[list[Any], int]:
    answer = await rest.call(f"{AGL}{path}", body)
    assert answer.status == 200, answer.body
    assert answer.json.keys() == {"items", "limit", "offset", "total"}
    return answer.json["items"], answer.json["total"]


async def test_a_rollout_goes_its_way_from_the_queue_to_its_end(rest: Rest) -> None:
    config = {"timeout_seconds": 60.0, "max_attempts": 2, "retry_condition": ["failed"]}
    wanted = {
        "input": {"q": [1, None]},
        "mode": "train",
        "config": config,
        "metadata": {"a": 1},
        "resources_id": "rs-1",
    }
    answer = await rest.call(f"{AGL}/queues/rollouts/enqueue", {"rollouts": [wanted, {"input": 2}]})
    assert answer.status == 201
    first, second = answer.json
    assert {key: first[key] for key in wanted if key != "config"} == {
        key: wanted[key] for key in wanted if key != "config"
    }
    assert first["config"] == {**config, "unresponsive_seconds": None, "retry_budgets": {}}
    assert (first["status"], second["input"]) == ("queuing", 2)

    (claimed,) = (await rest.call(f"{AGL}/queues/rollouts/dequeue", {"worker_id": "worker-1"})).json
    assert (claimed["rollout_id"], claimed["status"]) == (first["rollout_id"], "preparing")
    assert (claimed["attempt"]["sequence_id"], claimed["attempt"]["worker_id"]) == (1, "worker-1")
    one = f"{AGL}/rollouts/{first['rollout_id']}"
    assert (await rest.call(f"{AGL}/spans", span(claimed, 1))).status == 201
    assert (await rest.get(one)).json["attempt"]["status"] == "running"
    attempt = (await rest.call(f"{one}/attempts/latest", {"status": "succeeded", "metadata": {"b": 2}})).json
    assert (attempt["status"], attempt["metadata"]) == ("succeeded", {"b": 2})
    waited = await rest.call(
        f"{AGL}/waits/rollouts", {"rollout_ids": [second["rollout_id"], first["rollout_id"]], "timeout": 0}
    )
    assert [(done["rollout_id"], done["status"]) for done in waited.json] == [(first["rollout_id"], "succeeded")]
    (found,), total = await listed(rest, "/spans/search", {"rollout_id": first["rollout_id"], "attempt_id": "latest"})
    assert (Span.model_validate(found), total) == (Span.model_validate(span(claimed, 1)), 1)


async def test_a_rollout_with_an_id_of_its_own_is_made_once(local_rest: Rest) -> None:
    enqueue, wanted = f"{AGL}/queues/rollouts/enqueue", {"input": 1, "rollout_id": "ro-mine"}
    first, again = [await local_rest.call(enqueue, {"rollouts": [wanted]}) for _ in range(2)]
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    for path, body in ((enqueue, {"rollouts": [{**wanted, "input": 2}]}), (f"{AGL}/rollouts", wanted)):
        answer = await local_rest.call(path, body)
        assert (answer.status, answer.json.keys()) == (409, {"detail"})
    assert (await local_rest.get(f"{AGL}/rollouts")).json["total"] == 1


async def test_work_is_claimed_without_a_body_and_as_much_as_was_asked_for(local_rest: Rest) -> None:
    await local_rest.call(f"{AGL}/queues/rollouts/enqueue", {"rollouts": [{"input": number} for number in range(5)]})
    dequeue = local_rest.url + f"{AGL}/queues/rollouts/dequeue"
    (first,) = (await asyncio.to_thread(request, dequeue, b"")).json
    asked = [await local_rest.call(f"{AGL}/queues/rollouts/dequeue", {"limit": limit}) for limit in (3, 0, -1, 3, 3)]
    claimed = [first["input"], *([one["input"] for one in answer.json] for answer in asked)]
    assert claimed == [0, [1, 2, 3], [], [], [4], []]


async def test_what_there_is_not_is_null_and_no_error(rest: Rest) -> None:
    for path in ("rollouts/x", "rollouts/x/attempts/latest", "resources/latest", "resources/x", "workers/x"):
        answer = await rest.get(f"{AGL}/{path}")
        assert (answer.status, answer.body) == (200, b"null")
    for path in ("rollouts", "rollouts/x/attempts", "resources", "workers", "spans?rollout_id=x"):
        answer = await rest.get(f"{AGL}/{path}")
        assert answer.json == {"items": [], "limit": -1, "offset": 0, "total": 0}
    assert (await rest.call(f"{AGL}/waits/rollouts", {"rollout_ids": ["x"]})).json == []


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/rollouts/ro-x", {"status": "failed"}, 404, "Rollout ro-x not found"),
        ("/rollouts/ro-x/attempts", {}, 404, "Rollout ro-x not found"),
        ("/rollouts/ro-x/attempts/latest", {"status": "failed"}, 404, "Rollout ro-x not found"),
        ("/spans/next", {"rollout_id": "ro-x", "attempt_id": "at-x"}, 404, "Rollout ro-x not found"),
        ("/rollouts", {"input": 1, "rollout_id": "a b"}, 400, "rollout_id"),
        ("/rollouts", {"mode": "train"}, 400, "body.input"),
        ("/rollouts", {"input": 1, "mode": "nonsense"}, 400, "body.mode"),
        ("/rollouts", {"input": [float("nan")]}, 400, "input[0] is nan"),
        ("/rollouts", {"input": "\ud800"}, 400, "surrogate"),
        ("/rollouts", {"input": 1, "config": {"max_attempts": 0}}, 400, "max_attempts"),
        ("/rollouts", {"input": 1, "config": {"timeout_seconds": -1}}, 400, "timeout"),
        ("/rollouts", {"input": 1, "metadata": [1]}, 400, "metadata"),
        ("/queues/rollouts/enqueue", {"rollouts": [{"input": 1}, {"input": float("inf")}]}, 400, "input is inf"),
        ("/queues/rollouts/dequeue", {"limit": "many"}, 400, "limit"),
        ("/rollouts/search", {"sort_by": "nothing"}, 400, "nothing"),
        ("/rollouts/search", {"limit": -2}, 400, "limit"),
        ("/rollouts/search", {"offset": -1}, 400, "offset"),
        ("/rollouts/search", {"offset": 2**70}, 400, ""),
        ("/rollouts/search", {"sort_order": "up"}, 400, "sort_order"),
        ("/rollouts/search", {"filter_logic": "xor"}, 400, "filter_logic"),
        ("/rollouts/search", {"status_in": ["lost"]}, 400, "status_in"),
        ("/spans/search", {}, 400, "rollout_id"),
        ("/resources", {"llm": {"resource_type": 1}}, 400, "llm"),
        ("/resources", {"llm": {"resource_type": "llm", "model": "m"}}, 400, "endpoint"),
        ("/resources", {"mine": {"resource_type": "mine", "x": float("nan")}}, 400, "x is nan"),
        ("/resources/a%20b", {}, 400, "resources_id"),
        ("/workers/w", {"heartbeat_stats": None}, 400, "heartbeat_stats"),
        ("/workers/w", {"heartbeat_stats": {"load": float("inf")}}, 400, "load is inf"),
        ("/waits/rollouts", {"rollout_ids": "ro-1"}, 400, "rollout_ids"),
        ("/waits/rollouts", {"rollout_ids": [], "timeout": "soon"}, 400, "timeout"),
    ],
)
async def test_what_is_wrong_with_a_call_is_told_and_is_not_worth_a_second_try(
    local_rest: Rest, path: str, body: Any, status: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await local_rest.call(AGL + path, body)
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"detail"}
    assert said in answer.json["detail"]
    assert "Traceback" not in answer.json["detail"]
    assert not caplog.records
    assert (await local_rest.get(f"{AGL}/rollouts")).json["total"] == 0


async def test_what_is_wrong_with_a_span_is_told(local_rest: Rest) -> None:
    rollout = await started(local_rest)
    for changed, status, said in (
        ({"rollout_id": "ro-x"}, 404, "Rollout ro-x not found"),
        ({"attempt_id": "at-x"}, 404, "Attempt at-x not found"),
        ({"span_id": "not hex"}, 400, "span_id must be hex digits"),
        ({"trace_id": "ab"}, 400, "trace_id"),
        ({"sequence_id": 2**70}, 400, "cannot be stored"),
        ({"name": "\ud800"}, 400, "surrogates not allowed"),
        ({"attributes": {"a": "\ud800"}}, 400, "cannot be stored"),
        ({"attributes": [1]}, 400, "attributes"),
        ({"status": {"status_code": "GREAT"}}, 400, "status_code"),
        ({"mine": float("nan")}, 400, "mine is nan"),
    ):
        answer = await local_rest.call(f"{AGL}/spans", span(rollout, 1, **changed))
        assert answer.status == status, answer.body
        assert said in answer.json["detail"]
    assert (await listed(local_rest, "/spans/search", {"rollout_id": rollout["rollout_id"]}))[1] == 0


async def test_a_change_leaves_what_it_does_not_name_and_takes_away_what_it_says_is_null(local_rest: Rest) -> None:
    rollout = await started(local_rest, mode="train", metadata={"a": 1}, resources_id="rs-1")
    one = f"{AGL}/rollouts/{rollout['rollout_id']}"
    changed = (await local_rest.call(one, {"resources_id": None, "metadata": None})).json
    assert (changed["input"], changed["mode"], changed["resources_id"], changed["metadata"]) == (
        "x",
        "train",
        None,
        None,
    )
    changed = (await local_rest.call(one, {"input": None, "mode": None, "config": {"max_attempts": 3}})).json
    assert (changed["input"], changed["mode"], changed["config"]["max_attempts"]) == (None, None, 3)
    assert (await local_rest.call(one, {"status": "cancelled"})).json["status"] == "cancelled"
    for field in ("status", "config"):
        answer = await local_rest.call(one, {field: None})
        assert (answer.status, f"body.{field}" in answer.json["detail"]) == (400, True)

    attempt = f"{one}/attempts/{rollout['attempt']['attempt_id']}"
    assert (await local_rest.call(attempt, {"worker_id": "w", "metadata": {"b": 2}})).json["worker_id"] == "w"
    kept = (await local_rest.call(attempt, {"last_heartbeat_time": 1_700_000_000.5})).json
    assert (kept["worker_id"], kept["metadata"], kept["last_heartbeat_time"]) == ("w", {"b": 2}, 1_700_000_000.5)
    taken = (await local_rest.call(attempt, {"worker_id": None, "metadata": None})).json
    assert (taken["worker_id"], taken["metadata"]) == (None, None)
    for field in ("status", "last_heartbeat_time"):
        answer = await local_rest.call(attempt, {field: None})
        assert (answer.status, f"body.{field}" in answer.json["detail"]) == (400, True)


async def test_a_further_attempt_is_begun_with_and_without_a_worker(local_rest: Rest) -> None:
    rollout = await started(local_rest, worker_id="w-1")
    attempts = f"{AGL}/rollouts/{rollout['rollout_id']}/attempts"
    assert (await asyncio.to_thread(request, local_rest.url + attempts, b"")).json["attempt"]["worker_id"] is None
    assert (await local_rest.call(attempts, {"worker_id": "w-2"})).json["attempt"]["worker_id"] == "w-2"
    page = (await local_rest.get(f"{attempts}?sort_order=desc&limit=2&offset=1")).json
    assert ([one["sequence_id"] for one in page["items"]], page["total"]) == ([2, 1], 3)
    assert (await listed(local_rest, f"{attempts.removeprefix(AGL)}/search", {"limit": 1}))[0][0]["worker_id"] == "w-1"
    assert (await local_rest.get(f"{attempts}/latest")).json["sequence_id"] == 3


async def test_lists_are_filtered_sorted_and_cut(rest: Rest) -> None:
    rollouts = [{"input": number, "rollout_id": f"ro-{number}"} for number in (3, 1, 2)]
    await rest.call(f"{AGL}/queues/rollouts/enqueue", {"rollouts": rollouts})
    await rest.call(f"{AGL}/queues/rollouts/dequeue", {"limit": 1})

    async def ids(**query: Any) -> tuple[list[str], int]:
        items, total = await listed(rest, "/rollouts/search", query)
        return [item["rollout_id"] for item in items], total

    assert await ids() == (["ro-3", "ro-1", "ro-2"], 3)
    assert await ids(sort_by="rollout_id", sort_order="desc", limit=1, offset=1) == (["ro-2"], 3)
    assert await ids(status_in=["preparing"]) == (["ro-3"], 1)
    assert await ids(status_in=["preparing"], rollout_id_in=["ro-2"]) == ([], 0)
    assert await ids(status_in=["preparing"], rollout_id_in=["ro-2"], filter_logic="or") == (["ro-3", "ro-2"], 2)
    assert await ids(rollout_id_contains="1") == (["ro-1"], 1)
    assert await ids(status_in=[]) == await ids(rollout_id_in=[]) == ([], 0)
    assert (await ids(status_in=None, sort_by=None, filter_logic="or"))[1] == 3
    answer = await rest.get(f"{AGL}/rollouts?status_in=queuing&status_in=preparing&rollout_id_in=ro-1&limit=5")
    assert [item["rollout_id"] for item in answer.json["items"]] == ["ro-1"]
    items, _ = await listed(rest, "/rollouts/search", {"rollout_id_in": ["ro-3", "ro-1"]})
    assert ["attempt" in item for item in items] == [True, False]


async def test_resources_are_published_replaced_and_listed(rest: Rest) -> None:
    llm = {
        "resource_type": "llm",
        "endpoint": "http://x/v1",
        "model": "m",
        "sampling_parameters": {"n": 1},
        "api_key": None,
    }
    mine = {"resource_type": "mine", "answer": 42}
    answer = await rest.call(f"{AGL}/resources", {"z": llm, "a": mine})
    assert answer.status == 201
    assert list(answer.json["resources"].items()) == [("z", llm), ("a", mine)]
    changed = (await rest.call(f"{AGL}/resources/{answer.json['resources_id']}", {"z": llm})).json
    assert (changed["version"], changed["resources"]) == (2, {"z": llm})
    other = (await rest.call(f"{AGL}/resources/rs-other", {})).json
    assert (await rest.get(f"{AGL}/resources/latest")).json == other
    assert (await rest.get(f"{AGL}/resources/{changed['resources_id']}")).json == changed
    page = (
        await rest.get(f"{AGL}/resources?resources_id_contains=rs-&sort_by=update_time&sort_order=desc&limit=1")
    ).json
    assert (page["items"], page["total"]) == ([other], 2)
    assert (await rest.get(f"{AGL}/resources?resources_id=rs-other")).json["total"] == 1


async def test_workers_show_life_and_are_listed(rest: Rest) -> None:
    worker = (await rest.call(f"{AGL}/workers/w-1", {"heartbeat_stats": {"cpu": 0.5}})).json
    assert (worker["worker_id"], worker["heartbeat_stats"], worker["status"]) == ("w-1", {"cpu": 0.5}, "unknown")
    assert (await asyncio.to_thread(request, rest.url + f"{AGL}/workers/w-1", b"")).json["heartbeat_stats"] == {
        "cpu": 0.5
    }
    await started(rest, worker_id="w-2")
    assert (await rest.get(f"{AGL}/workers/w-2")).json["status"] == "busy"
    busy, total = await listed(rest, "/workers/search", {"status_in": ["busy"], "worker_id_contains": "w-"})
    assert ([one["worker_id"] for one in busy], total) == (["w-2"], 1)
    assert (await listed(rest, "/workers/search", {"status_in": []}))[1] == 0
    page = (
        await rest.get(f"{AGL}/workers?status_in=busy&status_in=unknown&sort_by=worker_id&sort_order=desc&limit=1")
    ).json
    assert ([one["worker_id"] for one in page["items"]], page["total"]) == (["w-2"], 2)


async def test_a_span_is_stored_once_and_found_by_what_it_is(rest: Rest) -> None:
    rollout = await started(rest)
    for number in (1, 2, 3):
        assert (await rest.call(f"{AGL}/spans", span(rollout, number, parent_id="00000000000000ff"))).json[
            "sequence_id"
        ] == number
    again = await rest.call(f"{AGL}/spans", span(rollout, 1, name="other"))
    assert (again.status, again.body) == (201, b"null")
    key = {"rollout_id": rollout["rollout_id"], "attempt_id": rollout["attempt"]["attempt_id"]}
    assert (await rest.call(f"{AGL}/spans/next", key)).json == {"sequence_id": 4}

    async def names(**query: Any) -> list[str]:
        items, _ = await listed(rest, "/spans/search", {"rollout_id": rollout["rollout_id"], **query})
        return [item["name"] for item in items]

    assert await names(filter_logic="or") == ["step 1", "step 2", "step 3"]
    assert await names(name="step 2") == await names(span_id="0000000000000002") == ["step 2"]
    assert await names(name_contains="3", span_id_contains="1", filter_logic="or") == ["step 1", "step 3"]
    assert await names(trace_id="ab" * 16, parent_id="00000000000000ff", limit=1, offset=1) == ["step 2"]
    assert await names(trace_id_contains="aba", parent_id_contains="ff", sort_order="desc") == [
        "step 3",
        "step 2",
        "step 1",
    ]
    found = await rest.get(f"{AGL}/spans?rollout_id={rollout['rollout_id']}&attempt_id=latest&name=step%201")
    assert [item["name"] for item in found.json["items"]] == ["step 1"]


async def test_what_json_cannot_say_comes_back_as_words(local_rest: Rest) -> None:
    rollout = await started(local_rest)
    sent = span(rollout, 1, attributes={"score": [float("nan"), float("inf"), -float("inf"), 0.5], "text": "NaN"})
    stored = await local_rest.call(f"{AGL}/spans", sent)
    assert stored.status == 201
    (found,), _ = await listed(local_rest, "/spans/search", {"rollout_id": rollout["rollout_id"]})
    assert (
        stored.json["attributes"]
        == found["attributes"]
        == {"score": ["NaN", "Infinity", "-Infinity", 0.5], "text": "NaN"}
    )

    made = Span.model_validate(span(rollout, 2, attributes={"data": b"\xff\x00"}))
    await local_rest.store.add_span(made)
    found = (await local_rest.get(f"{AGL}/spans?rollout_id={rollout['rollout_id']}&name=step%202")).json["items"][0]
    assert found["attributes"] == {"data": "_wA="}


async def test_an_input_is_answered_however_deep_it_is(local_rest: Rest) -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    answer = await local_rest.call(f"{AGL}/queues/rollouts/enqueue", {"rollouts": [{"input": deep}]})
    assert (answer.status, answer.json[0]["input"]) == (201, deep)
    assert (await local_rest.call(f"{AGL}/queues/rollouts/dequeue", {})).json[0]["input"] == deep


async def test_spans_that_the_store_has_dropped_are_gone(quick_folder: Path, switchboard: Switchboard) -> None:
    async with Variant("memory", "in-process", quick_folder).open(span_bound=SpanBound(2_000, 1_000)) as opened:
        with switchboard.serving(StoreFace(opened.api)) as url:
            rest = Rest(url, opened, StoreFace(opened.api))
            rollouts = [await started(rest) for _ in range(2)]
            for rollout in rollouts:
                await rest.call(f"{AGL}/spans", span(rollout, 1, attributes={"text": "x" * 1_500}))
                await rest.call(f"{AGL}/rollouts/{rollout['rollout_id']}/attempts/latest", {"status": "succeeded"})
            await rest.call(f"{AGL}/spans", span(await started(rest), 1))
            answer = await rest.get(f"{AGL}/spans?rollout_id={rollouts[0]['rollout_id']}")
            assert answer.status == 410
            assert "evicted" in answer.json["detail"]


async def test_what_is_answered_has_the_form_that_is_described(local_rest: Rest) -> None:
    described = (await local_rest.get("/openapi.json")).json["components"]["schemas"]
    rollout = await started(local_rest, worker_id="w")
    await local_rest.call(f"{AGL}/resources", {})
    for path, model in (
        (f"rollouts/{rollout['rollout_id']}", AttemptedRollout),
        ("resources/latest", ResourcesUpdate),
        ("workers/w", Worker),
    ):
        found = (await local_rest.get(f"{AGL}/{path}")).json
        assert model.model_validate(found).model_dump(mode="json") == found
        assert described[model.__name__]["properties"].keys() == found.keys()
    assert Rollout.model_validate(rollout).input == "x"


async def test_totals_and_health(local_rest: Rest) -> None:
    assert (await local_rest.get(f"{AGL}/health")).json == (await local_rest.get("/health")).json == {"status": "ok"}
    await started(local_rest)
    totals = (await local_rest.get(f"{AGL}/statistics")).json
    assert (totals["total_rollouts"], totals["total_attempts"], totals["total_spans"]) == (1, 1, 0)
    assert totals["name"] == "memory"


def sent_and_left(url: str, path: str, body: Any) -> socket.socket:
    """Sends a POST and returns its connection, to be closed before the answer comes."""
    place = urlsplit(url)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((place.hostname, place.port), timeout=20)
    connection.sendall(head.encode() + data)
    return connection


async def test_a_wait_ends_with_its_client(local_rest: Rest) -> None:
    rollout = await started(local_rest)
    opened: OpenStore = local_rest.opened
    body = {"rollout_ids": [rollout["rollout_id"]], "timeout": None}
    connections = [sent_and_left(local_rest.url, f"{AGL}/waits/rollouts", body) for _ in range(3)]
    await opened.until_waiting(3)
    for connection in connections:
        connection.close()
    await opened.until_waiting(0)


async def test_a_wait_is_answered_when_all_have_finished(local_rest: Rest) -> None:
    rollouts = [await started(local_rest) for _ in range(2)]
    ids = [rollout["rollout_id"] for rollout in rollouts]
    waiting = asyncio.create_task(local_rest.call(f"{AGL}/waits/rollouts", {"rollout_ids": ids}))
    await local_rest.opened.until_waiting(1)
    for rollout_id in ids:
        await local_rest.call(f"{AGL}/rollouts/{rollout_id}", {"status": "succeeded"})
    answer: Answer = await waiting
    assert [done["rollout_id"] for done in answer.json] == ids


class SlowToClaim(StoreFace):
    """A store whose claims are answered when the test says so."""

    def __init__(self, opened: OpenStore) -> None:
        super().__init__(opened.api)
        self.claimed = asyncio.Event()
        self.answered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def dequeue_many_rollouts(self, **arguments: Any) -> Any:
        found = await super().dequeue_many_rollouts(**arguments)
        self._loop.call_soon_threadsafe(self.claimed.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.answered.wait(), self._loop))
        return found


async def test_a_claim_whose_client_has_gone_is_handed_back(local_rest: Rest, switchboard: Switchboard) -> None:
    first = await local_rest.store.enqueue_rollout("first")
    await local_rest.store.enqueue_rollout("second")
    slow = SlowToClaim(local_rest.opened)
    with switchboard.serving(slow) as url:
        connection = sent_and_left(url, f"{AGL}/queues/rollouts/dequeue", {"limit": 1})
        await slow.claimed.wait()
        connection.close()
        # What is answered after the end of the other connection was read tells that it has been read.
        assert (await local_rest.get(f"{AGL}/health")).status == 200
        await asyncio.sleep(0.2)  # it left because it had to wait
        slow.answered.set()
        for _ in range(1000):
            found = await local_rest.store.get_rollout_by_id(first.rollout_id)
            if found is not None and found.status == "queuing":
                break
            await asyncio.sleep(0.005)
    assert [rollout.input for rollout in await local_rest.store.dequeue_many_rollouts(limit=2)] == ["first", "second"]

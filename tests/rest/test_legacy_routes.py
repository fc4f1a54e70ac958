"""The four routes: what older clients send and expect, on every kind of store."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rest_calls import Rest, Switchboard, request

from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.store.base import LightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.face import StoreFace
from agentlightning.types import LLM, PromptTemplate, RolloutConfig


async def status_of(store: LightningStore, rollout_id: str) -> str:
    found = await store.get_rollout_by_id(rollout_id)
    assert found is not None
    return found.status


async def test_without_work_there_is_no_task(rest: Rest) -> None:
    answer = await rest.get("/task")
    assert (answer.status, answer.body) == (200, b'{"is_available":false,"task":null}')
    assert answer.headers["cache-control"] == "no-store"


async def test_a_task_is_handed_out_once_with_all_that_a_client_needs(rest: Rest) -> None:
    resources = await rest.store.add_resources({})
    first = await rest.store.enqueue_rollout({"question": "1+1"}, "train", metadata={"level": 1})
    await rest.store.enqueue_rollout("second", resources_id="rs-other")
    assert await rest.claim() == {
        "rollout_id": first.rollout_id,
        "input": {"question": "1+1"},
        "mode": "train",
        "resources_id": resources.resources_id,
        "create_time": first.start_time,
        "last_claim_time": first.start_time,
        "num_claims": 1,
        "metadata": {"level": 1},
    }
    second = await rest.claim()
    assert (second["input"], second["mode"], second["resources_id"]) == ("second", None, "rs-other")
    assert (await rest.get("/task")).json == {"is_available": False, "task": None}
    assert await status_of(rest.store, first.rollout_id) == "preparing"


async def test_a_task_is_handed_out_as_it_was_enqueued(local_rest: Rest) -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    for sample in (10**30, "\u4f60\u597d \U0001f600 \x00", [1.0, True, None, {"": -0.0}], deep):
        await local_rest.store.enqueue_rollout(sample)
        assert (await local_rest.claim())["input"] == sample


@pytest.mark.parametrize("path", ["/task", "/dequeue_rollout"])
async def test_a_browser_claims_nothing_by_itself(local_rest: Rest, path: str) -> None:
    await local_rest.store.enqueue_rollout("x")
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}):
        answer = await asyncio.to_thread(request, local_rest.url + path, **headers)
        assert (answer.status, answer.json.keys()) == (403, {"detail"})
    asked_for_by_a_person = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
    assert b'"x"' in (await asyncio.to_thread(request, local_rest.url + path, **asked_for_by_a_person)).body


async def test_the_latest_resources_and_those_of_an_id(rest: Rest) -> None:
    llm = LLM(endpoint="http://127.0.0.1:1/v1", model="m", sampling_parameters={"temperature": 0.5})
    first = await rest.store.add_resources({"llm": llm})
    second = await rest.store.add_resources({"prompt": PromptTemplate(template="{x}", engine="f-string")})
    latest = (await rest.get("/resources/latest")).json
    assert latest["resources_id"] == second.resources_id
    assert latest["resources"] == {
        "prompt": {"resource_type": "prompt_template", "template": "{x}", "engine": "f-string"}
    }
    by_id = (await rest.get(f"/resources/{first.resources_id}")).json
    assert by_id == first.model_dump(mode="json")


async def test_empty_resources_are_resources(rest: Rest) -> None:
    await rest.store.add_resources({})
    answer = await rest.get("/resources/latest")
    assert (answer.status, answer.json["resources"]) == (200, {})


async def test_what_does_not_exist_is_not_found(rest: Rest) -> None:
    for path, detail in {
        "/resources/latest": "No resources have been set on the server.",
        "/resources/rs-1": "Resource ID 'rs-1' not found.",
        "/nowhere": "Not Found",
    }.items():
        answer = await rest.get(path)
        assert (answer.status, answer.json) == (404, {"detail": detail})
    answer = await rest.post({"rollout_id": "ro-1"})
    assert (answer.status, answer.json) == (404, {"detail": "Rollout ro-1 not found"})


async def test_a_report_ends_its_rollout(rest: Rest) -> None:
    await rest.store.enqueue_rollout("x")
    task = await rest.claim()
    answer = await rest.post({"rollout_id": task["rollout_id"], "task": task, "final_reward": 0.5})
    assert answer.status == 200
    said = f"Rollout {task['rollout_id']} received and stored."
    assert answer.body == json.dumps({"status": "ok", "message": said, "data": None}, separators=(",", ":")).encode()
    assert await status_of(rest.store, task["rollout_id"]) == "succeeded"


async def test_a_report_without_its_task_is_about_the_latest_attempt(local_rest: Rest) -> None:
    await local_rest.store.enqueue_rollout("x")
    task = await local_rest.claim()
    assert (await local_rest.post({"rollout_id": task["rollout_id"]})).status == 200
    assert await status_of(local_rest.store, task["rollout_id"]) == "succeeded"


async def test_a_task_whose_client_has_gone_is_handed_out_again(rest: Rest) -> None:
    await rest.store.enqueue_rollout("x")
    first = await rest.claim()
    rest.opened.pass_time(299)
    assert (await rest.get("/task")).json["is_available"] is False
    rest.opened.pass_time(2)
    second = await rest.claim()
    assert (second["rollout_id"], second["num_claims"]) == (first["rollout_id"], 2)
    assert second["last_claim_time"] == pytest.approx(first["last_claim_time"] + 301)


async def test_a_client_that_reports_late_but_before_anybody_else_took_over_is_heard(rest: Rest) -> None:
    await rest.store.enqueue_rollout("x")
    task = await rest.claim()
    rest.opened.pass_time(301)
    assert await status_of(rest.store, task["rollout_id"]) == "requeuing"
    assert (await rest.post({"rollout_id": task["rollout_id"], "task": task})).status == 200
    assert await status_of(rest.store, task["rollout_id"]) == "succeeded"
    assert (await rest.get("/task")).json["is_available"] is False


async def test_a_late_report_never_ends_a_newer_attempt(rest: Rest) -> None:
    await rest.store.enqueue_rollout("x")
    late = await rest.claim()
    rest.opened.pass_time(301)
    newer = await rest.claim()
    rollout_id = newer["rollout_id"]
    assert (await rest.post({"rollout_id": rollout_id, "task": late, "final_reward": 0.0})).status == 200
    assert await status_of(rest.store, rollout_id) == "preparing"
    assert (await rest.post({"rollout_id": rollout_id, "task": newer, "final_reward": 1.0})).status == 200
    assert await status_of(rest.store, rollout_id) == "succeeded"
    # Both are kept, each with its attempt.
    assert [attempt.status for attempt in await rest.store.query_attempts(rollout_id)] == ["succeeded", "succeeded"]


async def test_a_late_report_leaves_an_ended_attempt_as_it_is(local_rest: Rest) -> None:
    await local_rest.store.enqueue_rollout("x", config=RolloutConfig(timeout_seconds=10))
    task = await local_rest.claim()
    local_rest.opened.pass_time(11)
    assert (await local_rest.post({"rollout_id": task["rollout_id"], "task": task})).status == 200
    assert await status_of(local_rest.store, task["rollout_id"]) == "failed"
    attempt = await local_rest.store.get_latest_attempt(task["rollout_id"])
    assert attempt is not None
    assert attempt.late_report is not None
    assert (attempt.status, attempt.late_report.status) == ("timeout", "succeeded")


async def test_a_cancelled_rollout_stays_cancelled(local_rest: Rest) -> None:
    await local_rest.store.enqueue_rollout("x")
    task = await local_rest.claim()
    await local_rest.store.update_rollout(task["rollout_id"], status="cancelled")
    assert (await local_rest.post({"rollout_id": task["rollout_id"], "task": task})).status == 200
    assert await status_of(local_rest.store, task["rollout_id"]) == "cancelled"


async def test_a_report_that_is_sent_again_changes_nothing(local_rest: Rest) -> None:
    await local_rest.store.enqueue_rollout("x")
    task = await local_rest.claim()
    report = {"rollout_id": task["rollout_id"], "task": task, "final_reward": 0.5, "logs": ["a"]}
    answers = await asyncio.gather(*(local_rest.post(report) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    spans = await local_rest.store.query_spans(task["rollout_id"])
    assert (await local_rest.post({**report, "final_reward": 0.9})).status == 200
    assert await local_rest.store.query_spans(task["rollout_id"]) == spans
    assert len(spans) == 3


async def test_a_report_of_a_failure_fails_the_attempt(local_rest: Rest) -> None:
    await local_rest.store.enqueue_rollout("x")
    task = await local_rest.claim()
    report = {"rollout_id": task["rollout_id"], "task": task, "metadata": {"agentlightning.failure": "KeyError: 'x'"}}
    assert (await local_rest.post(report)).status == 200
    attempt = await local_rest.store.get_latest_attempt(task["rollout_id"])
    assert attempt is not None
    assert attempt.failure is not None
    assert (attempt.status, attempt.failure.kind, attempt.failure.message) == ("failed", "agent_error", "KeyError: 'x'")
    assert await status_of(local_rest.store, task["rollout_id"]) == "failed"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body: Field required"),
        (b"{", "JSON"),
        (b"\xff", "body"),
        (b"[]", "body: "),
        (b"{}", "body.rollout_id: Field required"),
        (b'{"rollout_id": 1, "final_reward": "much", "logs": 3}', "body.final_reward"),
        (b'{"rollout_id": "ROLLOUT", "final_reward": NaN}', "final_reward"),
        (b'{"rollout_id": "ROLLOUT", "metadata": {"a": [1e999]}}', "metadata.a[0]"),
        (b'{"rollout_id": "ROLLOUT", "metadata": {"a": "\\ud800"}}', "surrogate"),
        (b'{"rollout_id": "\\ud800"}', "body.rollout_id"),
        (b'{"rollout_id": "ROLLOUT", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "body"),
        (b'{"rollout_id": "ROLLOUT", "metadata": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}", "body"),
        (b'{"rollout_id": "ROLLOUT", "task": {"rollout_id": "ro-2", "input": 1}}', "ro-2"),
        (b"[" + b"1," * 100_000 + b"1]", "body: "),
    ],
)
async def test_a_malformed_report_is_a_bad_request_that_says_what_is_wrong(
    local_rest: Rest, body: bytes, named: str
) -> None:
    rollout = await local_rest.store.enqueue_rollout("x")
    await local_rest.claim()
    url = local_rest.url + "/rollout"
    answer = await asyncio.to_thread(request, url, body.replace(b"ROLLOUT", rollout.rollout_id.encode()))
    assert answer.status == 400
    assert answer.json.keys() == {"detail"}
    assert named in answer.json["detail"]
    assert len(answer.json["detail"]) < 1000
    assert await status_of(local_rest.store, rollout.rollout_id) == "preparing"


async def test_a_report_on_an_attempt_that_there_is_not_is_not_found(local_rest: Rest) -> None:
    rollout = await local_rest.store.enqueue_rollout("x")
    answer = await local_rest.post({"rollout_id": rollout.rollout_id})
    assert (answer.status, answer.json["detail"]) == (404, f"Rollout {rollout.rollout_id} has not been handed out.")
    task = await local_rest.claim()
    answer = await local_rest.post({"rollout_id": rollout.rollout_id, "task": {**task, "num_claims": 2}})
    assert (answer.status, answer.json["detail"]) == (404, f"Rollout {rollout.rollout_id} has no attempt 2.")


async def test_a_body_without_end_is_cut_off(local_rest: Rest) -> None:
    def send(header: tuple[str, str], pieces: list[bytes]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(local_rest.url.removeprefix("http://"), timeout=20)
        try:
            connection.putrequest("POST", "/rollout")
            connection.putheader("Content-Type", "application/json")
            connection.putheader(*header)
            connection.endheaders()
            for piece in pieces:
                connection.send(piece)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    refused = (413, {"detail": f"The body is larger than {MAX_BODY_BYTES} bytes."})
    assert await asyncio.to_thread(send, ("Content-Length", str(MAX_BODY_BYTES + 1)), []) == refused
    # Not announced, and never finished.
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    chunks = [chunk] * (MAX_BODY_BYTES // 0x100000) + [b"1\r\n \r\n"]
    assert await asyncio.to_thread(send, ("Transfer-Encoding", "chunked"), chunks) == refused


async def test_other_methods_are_refused_in_json(local_rest: Rest) -> None:
    answer = await asyncio.to_thread(request, local_rest.url + "/task", b"{}")
    assert (answer.status, answer.json) == (405, {"detail": "Method Not Allowed"})


async def test_a_store_that_cannot_be_reached_is_not_available(switchboard: Switchboard) -> None:
    nowhere = LightningStoreClient("127.0.0.1:1", retry_delays=[], connection_timeout=0.1)
    with switchboard.serving(nowhere) as url:
        for path in ("/task", "/resources/latest", "/resources/x"):
            answer = await asyncio.to_thread(request, url + path)
            assert answer.status == 503
            assert "cannot be reached" in answer.json["detail"]
        answer = await asyncio.to_thread(request, url + "/rollout", b'{"rollout_id": "ro-1"}')
        assert answer.status == 503
    await nowhere.close()


async def test_an_experiment_that_nobody_has_begun_is_not_available_yet(
    local_rest: Rest, switchboard: Switchboard
) -> None:
    store = StoreFace(local_rest.opened.api, experiment="mine")
    with switchboard.serving(store) as url:
        answer = await asyncio.to_thread(request, url + "/task")
        assert answer.status == 503
        assert "mine" in answer.json["detail"]
        await store.enqueue_rollout("x")
        assert (await asyncio.to_thread(request, url + "/task")).json["is_available"] is True
    assert (await local_rest.get("/task")).json["is_available"] is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NEARLY_SPANS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text() | JSON,
        "context": st.fixed_dictionaries(
            {},
            optional={"trace_id": st.sampled_from(["0x" + "1" * 32, "1"]) | JSON, "span_id": st.just("0x" + "2" * 16)},
        ),
        "trace_id": st.just("1" * 32) | JSON,
        "parent_id": st.just("0x" + "3" * 16) | JSON,
        "start_time": st.just("2026-01-01T00:00:00.000000Z") | JSON,
        "end_time": st.just("0001-01-01T00:00:00Z") | JSON,
        "attributes": JSON,
        "events": JSON,
        "links": JSON,
        "status": JSON,
        "resource": JSON,
    },
)
FIELDS = {
    "task": JSON,
    "final_reward": st.floats() | JSON,
    "triplets": st.lists(
        st.fixed_dictionaries(
            {"prompt": JSON, "response": JSON},
            optional={"reward": st.floats(), "metadata": st.dictionaries(st.text(), JSON)},
        )
    )
    | JSON,
    "trace": st.lists(NEARLY_SPANS) | JSON,
    "logs": st.lists(st.text()) | JSON,
    "metadata": st.dictionaries(st.text() | st.just("agentlightning.failure"), JSON),
}


async def test_no_body_makes_the_server_fail(local_rest: Rest) -> None:
    url = local_rest.url + "/rollout"
    loop = asyncio.get_running_loop()

    def claimed() -> str:
        async def claim() -> str:
            rollout = await local_rest.store.enqueue_rollout("x")
            await local_rest.store.dequeue_rollout()
            return rollout.rollout_id

        return asyncio.run_coroutine_threadsafe(claim(), loop).result()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary() | JSON.map(json.dumps).map(str.encode) | st.fixed_dictionaries({}, optional=FIELDS))
    def send(body: bytes | dict[str, Any]) -> None:
        if isinstance(body, dict):
            body = json.dumps({"rollout_id": claimed(), **body}).encode()
        answer = request(url, body)
        assert answer.status in (200, 400, 404), answer
        assert isinstance(answer.json, dict)
        assert b"Traceback" not in answer.body

    await asyncio.to_thread(send)


async def test_no_id_makes_the_server_fail(local_rest: Rest) -> None:
    url = local_rest.url + "/resources/"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=1) | st.text(min_size=1).map(lambda text: text.encode(errors="replace")))
    @example(b"x" * 5000)
    @example(b"\xff\x00")
    @example(b"..")
    def ask(resource_id: bytes) -> None:
        answer = request(url + quote(resource_id, safe=""))
        assert answer.status == 404
        assert isinstance(answer.json["detail"], str)

    await asyncio.to_thread(ask)

"""The legacy client, against the legacy server and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentlightning.client import AgentLightningClient, DevTaskLoader, RequestRefusedError
from agentlightning.server import AgentLightningServer
from agentlightning.types import LLM, PromptTemplate, ResourcesUpdate, RolloutLegacy, Task


def client_of(endpoint: str, **settings: float) -> AgentLightningClient:
    """A client, whose deprecation is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AgentLightningClient(endpoint, **{"poll_interval": 0.01, **settings})


def report(**fields: Any) -> RolloutLegacy:
    """A posted rollout, likewise."""
    return RolloutLegacy.model_validate(fields)


@pytest.fixture(scope="module")
def server() -> Iterator[AgentLightningServer]:
    """A legacy server that the tests of this file share."""
    with pytest.warns(DeprecationWarning, match="use LightningStoreServer"):
        made = AgentLightningServer(port=0)
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


def blocking(call: Any, *arguments: Any) -> Any:
    """Runs a call of the client that blocks, beside the event loop."""
    return asyncio.to_thread(call, *arguments)


def test_it_says_that_it_is_deprecated_and_what_to_use() -> None:
    with pytest.warns(DeprecationWarning, match="AgentLightningClient is deprecated; use LightningStoreClient") as said:
        AgentLightningClient("http://127.0.0.1:1")
    assert [warning.filename for warning in said] == [__file__]
    with pytest.warns(DeprecationWarning, match="DevTaskLoader is deprecated; use Trainer.dev") as said:
        DevTaskLoader([1], {})
    assert [warning.filename for warning in said] == [__file__]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_task_goes_from_the_queue_to_the_report(server: AgentLightningServer, asynchronous: bool) -> None:
    client = client_of(server.endpoint)
    llm = LLM(endpoint="http://127.0.0.1:1/v1", model="m")
    resources_id = await server.update_resources({"llm": llm})
    rollout_id = await server.queue_task({"question": 1}, "train", resources_id, {"note": "n"})
    if asynchronous:
        task = await client.poll_next_task_async()
        resources = await client.get_resources_by_id_async(resources_id)
        latest = await client.get_latest_resources_async()
    else:
        task = await blocking(client.poll_next_task)
        resources = await blocking(client.get_resources_by_id, resources_id)
        latest = await blocking(client.get_latest_resources)
    assert task is not None
    assert (task.rollout_id, task.input, task.mode) == (rollout_id, {"question": 1}, "train")
    assert (task.resources_id, task.num_claims, task.metadata) == (resources_id, 1, {"note": "n"})
    assert resources == latest
    assert resources is not None
    assert resources.resources == {"llm": llm}
    posted = report(rollout_id=rollout_id, final_reward=1.0)
    if asynchronous:
        said = await client.post_rollout_async(posted)
    else:
        said = await blocking(client.post_rollout, posted)
    assert said == {"status": "ok", "message": f"Rollout {rollout_id} received and stored.", "data": None}
    completed = await server.get_completed_rollout(rollout_id)
    # The client adds the task, which tells the server which attempt is reported.
    assert completed == posted.model_copy(update={"task": task})
    assert client.task_count == 1


async def test_what_does_not_exist_is_none(server: AgentLightningServer) -> None:
    assert await client_of(server.endpoint).get_resources_by_id_async("a/b c") is None
    with scripted((404, b'{"detail": "No resources have been set on the server."}')) as script:
        assert await client_of(script.url).get_latest_resources_async() is None


async def test_a_report_that_the_server_refuses_raises(server: AgentLightningServer) -> None:
    client = client_of(server.endpoint)
    with pytest.raises(RequestRefusedError, match="Rollout ro-1 not found") as refused:
        await client.post_rollout_async(report(rollout_id="ro-1"))
    assert refused.value.status == 404
    with pytest.raises(ValueError, match="JSON"):
        await client.post_rollout_async(report(rollout_id="ro-1", final_reward=float("nan")))


class Script:
    """A server that answers as it is told, whatever it is asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, str, str | None]] = []
        self.was_asked = threading.Event()
        self.url = ""


@contextmanager
def scripted(*answers: tuple[int, bytes]) -> Iterator[Script]:
    """Serves a script; its last answer is given again and again, and status 0 breaks the connection."""
    script = Script()
    script.answers = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append((self.command, self.path, self.headers["X-AgentLightning-Client"]))
            script.was_asked.set()
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if status:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as script.url:
        yield script


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves over HTTP."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


TASK = json.dumps({"is_available": True, "task": {"rollout_id": "rollout-1", "input": 1}}).encode()


async def test_it_asks_until_there_is_a_task() -> None:
    none = (200, b'{"is_available": false, "task": null}')
    with scripted(none, none, (200, TASK), none, (200, TASK)) as script:
        client = client_of(script.url)
        tasks = [await asyncio.to_thread(client.poll_next_task), await client.poll_next_task_async()]
    assert [task and task.rollout_id for task in tasks] == ["rollout-1"] * 2
    assert len(script.asked) == 5


@pytest.mark.parametrize("fault", [(500, b"x"), (503, b'{"detail": "not yet"}'), (429, b""), (0, b"")])
def test_a_fault_that_may_pass_is_waited_for(fault: tuple[int, bytes]) -> None:
    with scripted(fault, fault, (200, b'{"is_available": false, "task": null}'), (200, TASK)) as script:
        task = client_of(script.url).poll_next_task()
    assert task is not None
    assert task.rollout_id == "rollout-1"
    assert script.asked == [("GET", "/task", "true")] * 4


@pytest.mark.parametrize(
    "fault", [(400, b"bad"), (401, b"who?"), (404, b"no tasks here"), (200, b"<html>"), (200, b"{}")]
)
async def test_polling_ends_when_the_server_will_never_give_a_task(fault: tuple[int, bytes]) -> None:
    with scripted(fault) as script:
        with pytest.raises(RequestRefusedError):
            client_of(script.url).poll_next_task()
        with pytest.raises(RequestRefusedError):
            await client_of(script.url).poll_next_task_async()
    assert len(script.asked) == 2


def test_a_report_is_no_success_where_something_else_answers() -> None:
    with scripted((200, b"<html>")) as script, pytest.raises(RequestRefusedError, match="no server of tasks"):
        client_of(script.url).post_rollout(report(rollout_id="ro-1"))


def test_a_report_is_sent_again_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with scripted((503, b"busy"), (200, b'{"status": "ok"}')) as script:
        assert client_of(script.url).post_rollout(report(rollout_id="ro-1")) == {"status": "ok"}
        assert len(script.asked) == 2
    with scripted((503, b"busy")) as script:
        assert client_of(script.url).post_rollout(report(rollout_id="ro-1")) is None
        assert client_of(script.url).get_latest_resources() is None
        assert len(script.asked) == 6
    assert "giving up" in caplog.text


def test_a_server_that_is_not_there_is_no_answer() -> None:
    assert client_of("http://127.0.0.1:1").get_latest_resources() is None


def test_a_slow_server_is_no_answer() -> None:
    release = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            release.wait(20)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Slow) as url:
        assert client_of(url, timeout=0.05).get_latest_resources() is None
        release.set()


def test_an_error_that_breaks_off_is_no_answer() -> None:
    release = threading.Event()

    class Stopping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.flush()
            release.wait(20)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Stopping) as url:
        assert client_of(url, timeout=0.2).get_latest_resources() is None
        release.set()


def test_resources_of_release_0_2_are_read() -> None:
    body = {
        "resources_id": "res-1",
        "resources": {"p": {"resource_type": "prompt_template", "template": "x", "engine": "jinja"}},
    }
    with scripted((200, json.dumps(body).encode())) as script:
        resources = client_of(script.url).get_resources_by_id("res-1")
    assert resources is not None
    assert resources.resources == {"p": PromptTemplate(template="x", engine="jinja")}


def test_only_http_is_spoken() -> None:
    with pytest.raises(ValueError, match="file:///etc"):
        client_of("file:///etc").get_latest_resources()


async def test_a_cancelled_poll_ends_at_once() -> None:
    with scripted((200, b'{"is_available": false, "task": null}')) as script:
        polling = asyncio.create_task(client_of(script.url, poll_interval=60).poll_next_task_async())
        assert await asyncio.to_thread(script.was_asked.wait, 20)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling


@pytest.fixture(autouse=True)
def _quiet_loader(request: pytest.FixtureRequest) -> Iterator[None]:
    with warnings.catch_warnings():
        if "loader" in request.node.name:
            warnings.simplefilter("ignore", DeprecationWarning)
        yield


async def test_the_loader_hands_out_its_inputs_over_and_over() -> None:
    prompt = PromptTemplate(template="{x}", engine="f-string")
    loader = DevTaskLoader(["a", "b"], {"prompt": prompt})
    tasks = [loader.poll_next_task(), await loader.poll_next_task_async(), loader.poll_next_task()]
    assert [task and (task.rollout_id, task.input, task.num_claims) for task in tasks] == [
        ("local_task_001", "a", 1),
        ("local_task_002", "b", 1),
        ("local_task_001", "a", 1),
    ]
    assert loader.task_count == 3
    assert tasks[0] is not None
    assert tasks[0].resources_id is not None
    resources = loader.get_resources_by_id(tasks[0].resources_id)
    assert resources is not None
    assert resources.resources == {"prompt": prompt}
    assert await loader.get_latest_resources_async() == resources


async def test_the_loader_keeps_what_is_posted() -> None:
    loader = DevTaskLoader([1], {})
    first, second = report(rollout_id="local_task_001", final_reward=1.0), report(rollout_id="local_task_001")
    loader.post_rollout(first)
    await loader.post_rollout_async(second)
    assert loader.rollouts == [first, second]


def test_the_loader_takes_tasks_and_resources_with_ids() -> None:
    task = Task(rollout_id="mine", input=1, resources_id="res-1")
    loader = DevTaskLoader([task], ResourcesUpdate(resources_id="res-1", resources={}), poll_interval=1.0)
    served = loader.poll_next_task()
    assert served is not None
    assert (served.rollout_id, served.resources_id) == ("mine", "res-1")


@pytest.mark.parametrize(
    ("tasks", "fault"),
    [
        ([], "must not be empty"),
        ([1, Task(rollout_id="t", input=1)], "all"),
        ([Task(rollout_id="t", input=1, resources_id="other")], "'other'"),
    ],
)
def test_the_loader_refuses_what_it_cannot_serve(tasks: list[Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        DevTaskLoader(tasks, {})

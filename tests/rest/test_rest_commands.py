"""The REST API as a command, and as a part of the store server's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rest_calls import request
from serving_commands import running, said
from store_process import COMMAND as STORE_COMMAND
from store_process import run_command

from agentlightning.rest import require_packages
from agentlightning.rest.__main__ import main as rest_main
from agentlightning.store.client import LightningStoreClient
from agentlightning.store_grpc.options import parse

REST_COMMAND = [sys.executable, "-m", "agentlightning.rest"]


async def served_task(address: str, url: str) -> None:
    """Takes a task of a store over the REST API, and reports on it."""
    store = LightningStoreClient(address)
    rollout = await store.enqueue_rollout("x")
    task = request(f"{url}/task").json["task"]
    assert task["rollout_id"] == rollout.rollout_id
    body = json.dumps({"rollout_id": rollout.rollout_id, "task": task, "final_reward": 1.0}).encode()
    assert request(f"{url}/rollout", body).status == 200
    assert [done.status for done in await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])] == ["succeeded"]
    await store.close()


async def test_the_store_server_serves_the_rest_api_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([*STORE_COMMAND, "--port", "0", "--rest-port", "0"], log) as server:
        address = said(server, r"agentlightning store listening on (\S+) store=memory:// store_id=\w+")
        url = said(server, r"agentlightning rest listening on (http://127\.0\.0\.1:\d+)")
        await served_task(address, url)


async def test_the_rest_api_stands_alone_in_front_of_any_store(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([*STORE_COMMAND, "--port", "0"], log) as server:
        address = said(server, r"agentlightning store listening on (\S+) .*")
        with running([*REST_COMMAND, "--store", address, "--port", "0"], log) as rest:
            url = said(rest, rf"agentlightning rest listening on (http://127\.0\.0\.1:\d+) store={address}")
            await served_task(address, url)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--store", "nonsense"], "Cannot connect to 'nonsense'"),
        (["--store", "127.0.0.1:1", "--host", "0.0.0.0"], "--insecure"),
        (["--store", "127.0.0.1:1", "--task-timeout-seconds", "-1"], "task_timeout_seconds"),
        (["--store", "127.0.0.1:1", "--port", "70000"], "70000 is no port"),
        (["--store", "127.0.0.1:1", "--port", "TAKEN"], "Cannot listen on"),
    ],
)
def test_what_cannot_be_served_is_told(
    options: list[str],
    fault: str,
    taken_port: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rest", *(taken_port if word == "TAKEN" else word for word in options)])
    assert rest_main() == 1
    said = capsys.readouterr()
    assert fault in said.err
    assert said.out == ""


def test_a_store_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rest"])
    with pytest.raises(SystemExit) as ended:
        rest_main()
    assert ended.value.code == 2
    assert "--store" in capsys.readouterr().err


def test_the_store_server_does_not_start_without_its_rest_port(taken_port: str) -> None:
    ended = run_command("--port", "0", "--rest-port", taken_port)
    assert ended.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{taken_port}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_the_option_of_the_store_server_is_off_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse([]).rest_port is None
    assert parse(["--rest-port", "8000"]).rest_port == 8000
    monkeypatch.setenv("AGL_STORE_REST_PORT", "8001")
    assert parse([]).rest_port == 8001
    assert parse(["--rest-port", "none"]).rest_port is None
    with pytest.raises(SystemExit):
        parse(["--rest-port", "70000"])


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_packages()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"uvicorn: pip install 'agentlightning-grpc\[rest\]'"):
        require_packages()

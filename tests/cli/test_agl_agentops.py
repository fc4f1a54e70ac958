"""`agl agentops`: what stands in for AgentOps' own servers. Their SDK itself is tried in `tests/framework`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from agl_calls import COMMAND, Run, agl
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from store_process import environment

from agentlightning.cli.agentops_app import create_collector
from agentlightning.rest.serving import RestServer
from agentlightning.store.client import LightningStoreClient

PROTOBUF = {"content-type": "application/x-protobuf"}


def export_of(name: str, **attributes: str) -> bytes:
    """An export of one span."""
    export = trace_service_pb2.ExportTraceServiceRequest()
    resource = export.resource_spans.add()
    for key, value in attributes.items():
        resource.resource.attributes.add(key=f"agentlightning.{key}").value.string_value = value
    resource.scope_spans.add().spans.add(name=name, trace_id=os.urandom(16), span_id=os.urandom(8))
    return export.SerializeToString()


@contextmanager
def collecting(run: Run | None, place: tuple[str, str] | None = None) -> Iterator[httpx.Client]:
    """A collector in front of an experiment, and a client of it."""
    store = None if run is None else LightningStoreClient(run.place[1], experiment=run.place[3])
    server = RestServer(create_collector(store, place), port=0)
    asyncio.run(server.start())
    try:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            yield client
    finally:
        asyncio.run(server.stop())
        if store is not None:
            asyncio.run(store.close())


def stored(run: Run, rollout_id: str) -> list[tuple[str, str]]:
    """Names and attempts of the spans of a rollout."""
    return [(span.name, span.attempt_id) for span in run.store.query_spans(rollout_id)]


def test_every_key_is_let_in() -> None:
    with collecting(None) as client:
        answer = client.post("/v3/auth/token", json={"api_key": "any"})
        assert answer.status_code == 200
        assert answer.json()["token"]
        assert answer.json()["project_id"]
        assert client.post("/v4/logs/upload/", json={"body": "printed"}).json() == {"url": "", "size": 0}
        assert client.get("/health").json() == {"status": "ok"}


def test_spans_get_to_the_attempt_that_path_headers_or_attributes_name(run: Run) -> None:
    ids = run.enqueue(4)
    attempts = [run.claim().attempt.attempt_id for _ in ids]
    with collecting(run, place=(ids[3], attempts[3])) as client:
        path = f"/rollout/{ids[0]}/attempt/{attempts[0]}/v1/traces"
        headers = {**PROTOBUF, "agl-rollout-id": ids[1], "agl-attempt-id": attempts[1]}
        sent: list[tuple[str, bytes, Any]] = [
            (path, export_of("by path"), headers),
            ("/v1/traces", export_of("by headers"), headers),
            ("/v1/traces", export_of("by attributes", rollout_id=ids[2], attempt_id=attempts[2]), PROTOBUF),
            ("/v1/traces", export_of("by default"), PROTOBUF),
        ]
        for where, body, more in sent:
            answer = client.post(where, content=body, headers=more)
            assert answer.status_code == 200
            response = trace_service_pb2.ExportTraceServiceResponse.FromString(answer.content)
            assert response.partial_success.rejected_spans == 0
    names = ["by path", "by headers", "by attributes", "by default"]
    assert [stored(run, rollout_id) for rollout_id in ids] == [[pair] for pair in zip(names, attempts, strict=True)]


def test_spans_without_a_place_are_told_and_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.enqueue()
    with collecting(run) as client:
        answer = client.post("/v1/traces", content=export_of("lost"), headers=PROTOBUF)
    response = trace_service_pb2.ExportTraceServiceResponse.FromString(answer.content)
    assert (answer.status_code, response.partial_success.rejected_spans) == (200, 1)
    assert "1 spans of an export are not stored: span 'lost' does not say agentlightning.rollout_id" in caplog.text


def test_without_a_store_spans_are_taken_and_dropped_as_metrics_are_always(run: Run) -> None:
    with collecting(None) as client:
        assert client.post("/rollout/a/attempt/b/v1/traces", content=export_of("x"), headers=PROTOBUF).content == b""
    with collecting(run) as client:
        assert client.post("/v1/metrics", content=b"anything", headers=PROTOBUF).status_code == 200


def test_a_store_that_is_away_is_told_so_that_exporters_try_again() -> None:
    store = LightningStoreClient("127.0.0.1:1", retry_delays=())
    server = RestServer(create_collector(store, ("ro", "at")), port=0)
    asyncio.run(server.start())
    try:
        answer = httpx.post(f"{server.url}/v1/traces", content=export_of("x"), headers=PROTOBUF, trust_env=False)
        assert answer.status_code == 503
    finally:
        asyncio.run(server.stop())


def test_what_cannot_be_served_is_told(taken_port: str) -> None:
    said = agl("agentops", "--port", taken_port)
    assert said.code == 1
    assert said.err.startswith(f"agl agentops: Cannot listen on 127.0.0.1:{taken_port}")
    assert "--insecure" in agl("agentops", "--host", "0.0.0.0").err
    assert agl("agentops", "--rollout", "ro-1").code == 2


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = agl("agentops")
    assert said.code == 4
    assert "pip install 'agentlightning-grpc[rest]'" in said.err


def start_daemon(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Starts a daemon whose log and process id are kept in a folder."""
    return subprocess.run(
        [*COMMAND, "agentops", "--daemon", *words],
        env=environment({"XDG_STATE_HOME": str(folder)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_daemon_goes_on_by_itself_and_says_where_it_is(run: Run, tmp_path: Path) -> None:
    (rollout_id,) = run.enqueue()
    attempt = run.claim()
    done = start_daemon(tmp_path, "--port", "0", *run.place)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.fullmatch(
        r"agl agentops listening on (?P<url>http://127\.0\.0\.1:(?P<port>\d+)) store=(?P<store>\S+) "
        r"pid=(?P<pid>\d+) pid_file=(?P<pid_file>\S+) log=(?P<log>\S+)\n",
        done.stdout,
    )
    assert found is not None, done.stdout
    pid, pid_file = int(found["pid"]), Path(found["pid_file"])
    try:
        assert found["store"] == run.place[1]
        assert pid_file == tmp_path / "agentlightning" / "agentops-0.pid"
        assert pid_file.read_text() == f"{pid}\n"
        assert os.getsid(pid) == pid  # closing the terminal does not end it
        path = f"/rollout/{rollout_id}/attempt/{attempt.attempt.attempt_id}/v1/traces"
        answer = httpx.post(found["url"] + path, content=export_of("x"), headers=PROTOBUF, trust_env=False)
        assert answer.status_code == 200
        assert stored(run, rollout_id) == [("x", attempt.attempt.attempt_id)]

        again = start_daemon(tmp_path, "--port", found["port"])
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr.startswith(f"agl agentops: Cannot listen on 127.0.0.1:{found['port']}")
        assert "Traceback" not in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    for _ in range(200):
        if not pid_file.exists():
            break
        time.sleep(0.05)
    assert not pid_file.exists()
    assert f"listening on {found['url']}" in Path(found["log"]).read_text()

"""`python -m agentlightning.store_grpc`: its options, its ready line, and how it refuses to start."""

from __future__ import annotations

import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from store_process import READY, StartServer, StoreProcess, run_command

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import InvalidArgument
from agentlightning.store.opening import open_engine
from agentlightning.store.server.server import StoreServer
from agentlightning.store_grpc.options import parse
from lightning_store import v1
from lightning_store.v1 import store_service_pb2_grpc


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def info(address: str) -> v1.GetServerInfoResponse:
    """What a server says of itself."""
    with grpc.insecure_channel(address) as channel:
        return store_service_pb2_grpc.StoreServiceStub(channel).GetServerInfo(v1.GetServerInfoRequest(), timeout=10)


def test_it_says_when_it_is_ready_and_where_it_listens(server: StoreProcess) -> None:
    assert server.port > 0
    assert server.address == f"127.0.0.1:{server.port}"
    store_id = server.ready_line.rpartition("store_id=")[2]
    assert info(server.address).store_id == store_id
    assert info(server.address).storage == "memory"


def test_it_listens_on_the_port_that_it_is_told(start_server: StartServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start_server(port=port)
    assert server.port == port
    assert info(f"127.0.0.1:{port}").storage == "memory"


@pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.2"])
def test_every_name_of_this_machine_alone_will_do(start_server: StartServer, host: str) -> None:
    server = start_server(options=["--host", host])
    assert info(server.address).storage == "memory"


def test_every_option_can_be_an_environment_variable(start_server: StartServer, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    server = start_server(
        env={
            "AGL_STORE_HOST": "0.0.0.0",
            "AGL_STORE_INSECURE": "true",
            "AGL_STORE_PORT": str(port),
            "AGL_STORE_STORE": f"sqlite:///{tmp_path}/store.db",
            "AGL_STORE_MAX_MESSAGE_BYTES": "1048576",
            "AGL_STORE_GRACE": "0.5",
            "AGL_STORE_LOG_LEVEL": "debug",
        },
        says_where=False,
        log=log,
    )
    found = READY.match(server.ready_line)
    assert found is not None
    assert found["address"] == f"0.0.0.0:{port}"
    assert found["store"] == f"sqlite:///{tmp_path}/store.db"
    said = info(f"127.0.0.1:{port}")
    assert (said.storage, said.max_message_bytes) == ("sqlite", 1 << 20)
    assert "DEBUG" in log.read_text()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(Empty().SerializeToString())
        next(watch)
        begun = time.monotonic()
        assert server.stop() == 0
        assert 0.3 < time.monotonic() - begun < 4


def test_an_option_wins_over_its_environment_variable(start_server: StartServer) -> None:
    server = start_server(env={"AGL_STORE_STORE": "nonsense://", "AGL_STORE_PORT": "1"})
    assert info(server.address).storage == "memory"


def test_wrong_options_end_the_command_at_once() -> None:
    result = run_command("--port", "70000")
    assert result.returncode == 2
    assert "--port: 70000 is no port" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--port", "x"], "--port"),
        (["--port", "-1"], "--port"),
        (["--max-message-bytes", "0"], "--max-message-bytes: 0"),
        (["--max-message-bytes", "9999999999"], "--max-message-bytes: 9999999999"),
        (
            ["--max-message-bytes", "2000", "--max-pending-bytes", "1999"],
            "--max-pending-bytes: 1999 is less than the 2000",
        ),
        (["--grace", "nan"], "--grace: nan"),
        (["--grace", "-1"], "--grace"),
        (["--log-level", "loud"], "--log-level: 'loud'"),
        (["--insecure", "maybe"], "--insecure: 'maybe'"),
        (["--no-such-option"], "--no-such-option"),
        (["sqlite:///x"], "sqlite:///x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named(options: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(options)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "x"), ("LOG_LEVEL", "loud"), ("INSECURE", "maybe"), ("GRACE", "-1"), ("MAX_MESSAGE_BYTES", "none")],
)
def test_a_wrong_environment_variable_is_named_as_its_option(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AGL_STORE_{name}", value)
    with pytest.raises(SystemExit) as ended:
        parse([])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"--{name.lower().replace('_', '-')}" in said
    assert value in said


def test_a_store_that_there_is_not_is_told() -> None:
    result = run_command("--port", "0", "--store", "mysql://host/db")
    assert result.returncode == 1
    assert "mysql://host/db" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite://host/x",
        "sqlite:///x?synchronous=FULL",
        "memory://?max_bytes=7",
        "memory://?x=1",
        "memory",
    ],
)
def test_a_store_url_must_be_right_in_every_part(url: str) -> None:
    with pytest.raises(InvalidArgument, match="Cannot open the store") as refused:
        open_engine(url)
    assert url in refused.value.message


def test_a_port_in_use_is_told_soon(taken_port: int) -> None:
    begun = time.monotonic()
    result = run_command("--port", str(taken_port))
    assert time.monotonic() - begun < 30
    assert result.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{taken_port}: the port is in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_two_servers_never_share_a_port(server: StoreProcess) -> None:
    result = run_command("--port", str(server.port))
    assert result.returncode == 1
    assert str(server.port) in result.stderr


def test_an_address_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    result = run_command("--port", "0", "--host", "0.0.0.0", "--store", f"sqlite:///{tmp_path}/store.db")
    assert result.returncode == 1
    assert "Refusing to listen on 0.0.0.0" in result.stderr
    assert "--insecure" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org", ""])
def test_whatever_is_not_sure_to_be_this_machine_is_refused(host: str, engine: Engine) -> None:
    with pytest.raises(ValueError, match="Refusing to listen on"):
        StoreServer(engine, host)


def test_an_address_that_others_can_reach_is_served_when_told(start_server: StartServer) -> None:
    server = start_server(options=["--host", "0.0.0.0", "--insecure"])
    assert info(f"127.0.0.1:{server.port}").storage == "memory"


def test_an_address_of_another_machine_is_told() -> None:
    result = run_command("--port", "0", "--host", "192.0.2.1", "--insecure")
    assert result.returncode == 1
    assert "192.0.2.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_cannot_listen_leaves_the_database_free(
    taken_port: int, tmp_path: Path, start_server: StartServer
) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    assert run_command("--port", str(taken_port), "--store", store).returncode == 1
    assert start_server(store).stop() == 0


def test_it_serves_where_uvloop_is_not_installed(start_server: StartServer) -> None:
    program = "import sys; sys.modules['uvloop'] = None; from agentlightning.store_grpc.__main__ import main; main()"
    server = start_server(command=[sys.executable, "-c", program])
    assert info(server.address).storage == "memory"
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_when_told(start_server: StartServer, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "store.db"
    server = start_server(f"sqlite:///{path}", log=tmp_path / "log")
    server.signal(number)
    assert server.wait() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    # What was in the log of the database has gone into the database.
    assert not path.with_name("store.db-wal").exists()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()

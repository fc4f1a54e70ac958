"""A database that cannot be opened ends the server with a clear message."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_process import StartServer, environment, run_command

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import FailedPrecondition
from agentlightning.store.storage import connection
from agentlightning.store.storage.sqlite import SqliteStorage
from agentlightning.store.storage.sqlite_schema import VERSION

NOBODY = 65534

AS_NOBODY = f"""
import os, sys
from agentlightning.store_grpc.__main__ import main
if os.geteuid() == 0:  # to root every file is writable
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.exit(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database may be made."""
    return tmp_path / "store.db"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others can reach too, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def refusal(path: Path) -> str:
    """What a server says that cannot open a database."""
    result = run_command("--port", "0", "--store", f"sqlite:///{path}")
    return message_of(result, path)


def message_of(result: subprocess.CompletedProcess[str], path: Path) -> str:
    """The message of a command that has failed as it should."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("agentlightning store: ")]
    assert "Traceback" not in result.stderr
    assert str(path) in line
    return line


def make_store(path: Path) -> None:
    """Make an empty store."""
    Engine(SqliteStorage(path)).close()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(os.urandom(8192))
    assert "file is not a database" in refusal(path)


def test_a_text_file_is_left_as_it_is(path: Path) -> None:
    path.write_text("my notes\n" * 1000)
    assert "file is not a database" in refusal(path)
    assert path.read_text() == "my notes\n" * 1000


def test_a_damaged_store(path: Path) -> None:
    make_store(path)
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996  # the list of tables
    path.write_bytes(data)
    assert "malformed" in refusal(path)


def test_a_store_that_was_cut_off(path: Path) -> None:
    make_store(path)
    path.write_bytes(path.read_bytes()[:10_000])
    assert "malformed" in refusal(path)


def test_a_database_of_something_else(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (text)")
    database.close()
    before = path.read_bytes()
    assert "a database of something else" in refusal(path)
    assert path.read_bytes() == before


def test_a_store_of_another_version(path: Path) -> None:
    make_store(path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    assert f"its tables are of version {VERSION + 1}, this release works with {VERSION}" in refusal(path)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "store.db"
    assert f"the folder {path.parent} does not exist" in refusal(path)
    assert not path.parent.exists()


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert "unable to open database file" in refusal(tmp_path)


def test_a_store_that_another_server_has_open(path: Path, start_server: StartServer) -> None:
    server = start_server(f"sqlite:///{path}")
    assert "another server has it open" in refusal(path)
    server.kill()
    assert start_server(f"sqlite:///{path}").stop() == 0  # however the owner ended, its lock is gone


def test_a_store_that_this_process_has_open_already(path: Path) -> None:
    engine = Engine(SqliteStorage(path))
    with pytest.raises(FailedPrecondition, match="another server has it open"):
        SqliteStorage(path)
    engine.close()
    make_store(path)


def as_nobody(path: Path) -> subprocess.CompletedProcess[str]:
    """Run a server without the rights of root."""
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "--port", "0", "--store", f"sqlite:///{path}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_file_that_may_only_be_read(open_folder: Path) -> None:
    path = open_folder / "store.db"
    make_store(path)
    path.chmod(0o444)
    (open_folder / "store.db-lock").chmod(0o666)
    assert "attempt to write a readonly database" in message_of(as_nobody(path), path)


def test_a_file_that_may_not_be_read(open_folder: Path) -> None:
    path = open_folder / "store.db"
    make_store(path)
    path.chmod(0o000)
    (open_folder / "store.db-lock").chmod(0o666)
    assert "unable to open database file" in message_of(as_nobody(path), path)


def test_a_folder_that_may_only_be_read(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    path = open_folder / "store.db"
    assert "unable to open database file" in message_of(as_nobody(path), path)


def test_a_store_keeps_its_identity(path: Path, start_server: StartServer) -> None:
    first = start_server(f"sqlite:///{path}")
    first.stop()
    second = start_server(f"sqlite:///{path}")
    assert first.ready_line.rpartition("store_id=")[2] == second.ready_line.rpartition("store_id=")[2]


def test_a_store_is_made_wholly_or_not_at_all(path: Path) -> None:
    database = connection.open_database(str(path))
    with pytest.raises(sqlite3.IntegrityError):
        connection.bring_up_to_date(database, None)  # type: ignore[arg-type]  fails at the last step
    database.close()
    make_store(path)


def test_a_copy_of_a_store_is_a_store(path: Path, start_server: StartServer) -> None:
    make_store(path)
    copy = path.with_name("a copy with spaces & signs.db")
    shutil.copy(path, copy)
    assert start_server(f"sqlite:///{str(copy).replace(' ', '%20')}").stop() == 0

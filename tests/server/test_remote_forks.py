"""Children: spawned ones work, forked ones work before the first use, and are told plainly after it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_process import StoreProcess, environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

REFUSED = (
    "child: This process was forked from one that already talked to a store or served one; gRPC does not survive that. "
    "Start children with multiprocessing.get_context('spawn')."
)


def outcome(how: str, where: str, *, parent_may_crash: bool = False) -> list[str]:
    """What parent and child say."""
    program = Path(__file__).parent / "children.py"
    result = subprocess.run(
        # From Python 3.12 on a fork of a process with threads warns, which is what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", str(program), how, where],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert parent_may_crash or result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_child_that_was_forked_before_the_first_use_works(server: StoreProcess) -> None:
    assert outcome("forked_before_use", server.address) == ["child: memory", "child ended with 0", "parent: memory"]


# To fork a process that uses gRPC is a risk for that process too: with old releases of grpcio it crashes now and then.


def test_a_child_that_was_forked_after_the_first_use_is_told_at_once(server: StoreProcess) -> None:
    begun = time.monotonic()
    said = outcome("forked_after_use", server.address, parent_may_crash=True)
    assert said[:2] == ["parent: memory", REFUSED]
    assert time.monotonic() - begun < 10


def test_a_child_that_was_forked_from_a_server_is_told_at_once(server: StoreProcess) -> None:
    assert outcome("forked_while_serving", server.address, parent_may_crash=True)[:1] == [REFUSED]


def test_children_of_such_a_child_are_told_too(server: StoreProcess) -> None:
    said = outcome("forked_child_of_a_forked_child", server.address, parent_may_crash=True)
    assert said[:2] == ["parent: memory", REFUSED]


def test_a_child_that_was_forked_with_an_open_file_is_told_at_once(tmp_path: Path) -> None:
    said, ended = outcome("forked_with_an_open_file", str(tmp_path / "store.db"))
    assert said.startswith("child: A store in a file does not survive a fork")
    assert ended == "child ended with 0"


def test_a_spawned_child_works(server: StoreProcess) -> None:
    assert outcome("spawned_after_use", server.address) == [
        "parent: memory",
        "child: memory",
        "child ended with 0",
        "parent: memory",
    ]

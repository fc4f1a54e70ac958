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


def outcome(how: str, server: StoreProcess) -> list[str]:
    """What parent and child say."""
    program = Path(__file__).parent / "children.py"
    result = subprocess.run(
        # From Python 3.12 on a fork of a process with threads warns, which is what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", str(program), how, server.address],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_child_that_was_forked_before_the_first_use_works(server: StoreProcess) -> None:
    assert outcome("forked_before_use", server) == ["child: memory", "child ended with 0", "parent: memory"]


def test_a_child_that_was_forked_after_the_first_use_is_told_at_once(server: StoreProcess) -> None:
    begun = time.monotonic()
    assert outcome("forked_after_use", server) == ["parent: memory", REFUSED, "child ended with 0", "parent: memory"]
    assert time.monotonic() - begun < 10


def test_a_child_that_was_forked_from_a_server_is_told_at_once(server: StoreProcess) -> None:
    assert outcome("forked_while_serving", server) == [REFUSED, "child ended with 0"]


def test_children_of_such_a_child_are_told_too(server: StoreProcess) -> None:
    assert outcome("forked_child_of_a_forked_child", server) == ["parent: memory", REFUSED, "child ended with 0"]


def test_a_spawned_child_works(server: StoreProcess) -> None:
    assert outcome("spawned_after_use", server) == [
        "parent: memory",
        "child: memory",
        "child ended with 0",
        "parent: memory",
    ]

"""Children: spawned ones work, forked ones work before the first use, and are told plainly after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_process import StoreProcess, environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

REFUSED = (
    "child: This process was forked from one that already talked to a store or served one; gRPC does not survive that. "
    "Start children with multiprocessing.get_context('spawn')."
)


def outcome(how: str, where: str) -> list[str]:
    """What parent and child say."""
    program = Path(__file__).parent / "children.py"
    result = subprocess.run(
        # From Python 3.12 on a fork of a process with threads warns, which is what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", str(program), how, where],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_child_that_was_forked_before_the_first_use_works(server: StoreProcess) -> None:
    assert outcome("forked_before_use", server.address) == ["child: memory", "child ended with 0", "parent: memory"]


def test_a_child_that_was_forked_after_the_first_use_is_told_at_once(server: StoreProcess) -> None:
    assert outcome("forked_after_use", server.address) == ["parent: memory", REFUSED, "child ended with 0"]


def test_a_child_that_was_forked_from_a_server_is_told_at_once(server: StoreProcess) -> None:
    assert outcome("forked_while_serving", server.address) == [REFUSED, "child ended with 0"]


def test_children_of_such_a_child_are_told_too(server: StoreProcess) -> None:
    assert outcome("forked_child_of_a_forked_child", server.address) == [
        "parent: memory",
        REFUSED,
        "child ended with 0",
    ]


@pytest.mark.parametrize("wish", [None, "1"])
def test_what_the_environment_says_of_the_handlers_of_grpc_is_left_alone(wish: str | None) -> None:
    program = (
        "import os; from agentlightning.store.forks import use_grpc; use_grpc(); "
        "print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    )
    env = {name: value for name, value in environment().items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    env |= {} if wish is None else {"GRPC_ENABLE_FORK_SUPPORT": wish}
    said = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == (wish or "0")


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

"""The examples run, and print what they are there to show."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "framework"))
from openai_server import MODEL, OpenAIServer

BASICS = Path(__file__).parent.parent / "examples" / "basics"

SHOWN = {
    "first_agent": (r"'Hello, \{name\}': mean reward 0\.25", r"'Hello, \{name\}!': mean reward 1\.00"),
    "class_agent": (
        r"train: task 3, guessed \d, reward 0\.\d",
        r"train: task 7, guessed \d, reward [01]\.\d",
        r"val: task 5, guessed 5, reward 1\.0",
    ),
    "custom_algorithm": (r"step 0: setting 0\.\d+ earned", r"step 15: .*; best is 0\.[67]\d with 0\.9"),
    "hooks": (r"0\.0: fast, reward 1\.0", r"0\.2: slow, reward 0\.8"),
    "class_resources": (
        r"Plan: buy milk \| Be strict\. \| tools: search, shell -> 0\.5",
        r"Plan: write a poem \| Be strict\. \| tools: search, shell -> 1\.0",
    ),
    "debug_with_step": (
        r"succeeded\n  1 agentlightning\.operation\n  2 agentlightning\.annotation 0\.25",
        r"failed: .*division.*; the store has: ZeroDivisionError",
    ),
    "several_rewards": (
        r"final reward: 0\.8",
        r"  quality: 0\.80\n  brevity: 0\.\d\d\n  words: 9\.00",
        r"object: .*fox",
    ),
    "migrate_from_0_2": (r"old: 9\.0", r"new: 10\.0"),
}


def run(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", BASICS / f"{name}.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return out


def test_every_example_is_run() -> None:
    assert {path.stem for path in BASICS.glob("*.py")} == {*SHOWN, "two_terminals", "trace_openai_agent"}


@pytest.mark.parametrize("name", SHOWN)
def test_example_shows_what_it_promises(name: str) -> None:
    out = output_of(run(name))
    for pattern in SHOWN[name]:
        assert re.search(pattern, out), out


def test_algorithm_and_runner_meet_from_two_terminals() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = {**os.environ, "AGL_SERVER_PORT": str(free.getsockname()[1])}
    algorithm = run("two_terminals", "algorithm", environment=environment)
    assert algorithm.stdout is not None
    assert algorithm.stdout.readline() == "waiting for runners\n"
    runner = run("two_terminals", "runner", environment=environment)
    out = output_of(algorithm)
    assert sorted(out.splitlines()) == ["one -> 1.0", "one two -> 2.0", "one two three -> 3.0"]
    output_of(runner)


def test_calls_of_the_openai_client_become_triplets() -> None:
    with OpenAIServer() as server:
        environment = {**os.environ, "OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": MODEL}
        out = output_of(run("trace_openai_agent", environment=environment))
    assert len(re.findall(r"^reward", out, re.MULTILINE)) == 2, out
    assert "reward 1.0" in out, out

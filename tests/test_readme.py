"""The README says what is true: its examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
DEFAULT_ADDRESS = "127.0.0.1:4747"


@pytest.fixture
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "agentlightning.store_grpc", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.match(r"agentlightning store listening on (\S+)", server.stdout.readline())
        assert match is not None
        yield match[1]
        server.terminate()


def examples() -> list[str]:
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(found) == 2
    return found


def run(example: str, address: str, folder: Path) -> str:
    assert DEFAULT_ADDRESS in example
    script = folder / "example.py"
    script.write_text(example.replace(DEFAULT_ADDRESS, address))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_agent_and_the_algorithm_run_against_a_server(address: str, tmp_path: Path) -> None:
    lines = run(examples()[0], address, tmp_path).splitlines()

    assert lines == ["Hello, {name} succeeded 0.0"] * 2 + ["Hello, {name}! succeeded 1.0"] * 2


def test_the_generated_stubs_have_the_same_conversation(address: str, tmp_path: Path) -> None:
    output = run(examples()[1], address, tmp_path)

    assert "status: ROLLOUT_STATUS_SUCCEEDED" in output
    assert output.rstrip().endswith("done {\n}")

"""The commands of docs/runners-in-other-languages.md do what the page says, over gRPC and over plain HTTP."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import ROOT, run
from store_process import StoreProcess

PAGE = (ROOT / "docs/runners-in-other-languages.md").read_text()
GENERATE, _START, OVER_GRPC, OVER_HTTP, *STEPS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
MARK = "=" * 40


@pytest.fixture
def own_server() -> Iterator[str]:
    """An empty store in memory: the page works in the default experiment."""
    server = StoreProcess(options=["--log-level", "ERROR"])
    server.start()
    yield server.address
    server.stop()


@contextmanager
def http_door(address: str) -> Iterator[str]:
    """Serve a store over plain HTTP; yields `host:port`."""
    command = [sys.executable, "-m", "agentlightning.rest", "--store", address, "--port", "0"]
    door = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert door.stdout is not None
        yield door.stdout.readline().partition("//")[2].split()[0]
    finally:
        door.terminate()
        door.communicate()


def expectation(block: str) -> str:
    """What the comments of a block say that it prints, as a pattern; spaces do not count."""
    said = "".join(line[2:] for line in block.splitlines() if line.startswith("# "))
    return ".*".join(re.escape(part) for part in re.sub(r"\s", "", said).split("..."))


def print_as_said(call: str) -> None:
    """Run the steps in a shell, and hold what they print against what the page says."""
    script = f"\necho {MARK}\n".join(["set -euo pipefail", call, *STEPS])
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for block, printed in zip(STEPS, done.stdout.split(MARK)[2:], strict=True):
        assert re.fullmatch(expectation(block), re.sub(r"\s", "", printed)), (block, printed)


def test_every_step_of_a_runner_prints_over_grpc_what_the_page_says(own_server: str) -> None:
    print_as_said(OVER_GRPC.replace("127.0.0.1:4747", own_server))


@pytest.mark.skipif(shutil.which("curl") is None, reason="NOT TESTED: the page over HTTP: there is no curl")
def test_every_step_of_a_runner_prints_over_http_what_the_page_says(own_server: str) -> None:
    with http_door(own_server) as address:
        print_as_said(OVER_HTTP.replace("127.0.0.1:8000", address))


def test_the_page_says_what_every_step_prints() -> None:
    assert len(STEPS) >= 8
    for block in STEPS:
        assert expectation(block), block


def test_the_contract_alone_gives_code_in_the_languages_of_protoc(tmp_path: Path) -> None:
    if shutil.which("protoc") is None:
        pytest.skip("NOT TESTED: the contract in further languages: there is no protoc")
    assert "--java_out=." in GENERATE
    outputs = re.findall(r"`--(\w+)_out`", PAGE)
    assert len(outputs) >= 5
    for language in ["java", *outputs]:
        folder = tmp_path / language
        folder.mkdir()
        command = GENERATE.replace("--java_out=.", f"--{language}_out={folder}")
        run(["bash", "-c", command], ROOT)
        assert any(path.is_file() for path in folder.rglob("*"))

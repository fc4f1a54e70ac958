"""Real old releases, each in an environment of its own that `make test-releases` makes, against a server of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from serving_commands import running, said
from store_process import COMMAND

from agentlightning.store.client import LightningStoreClient

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@dataclass
class Server:
    """A store server that runs."""

    address: str
    url: str


@dataclass
class Release:
    """The environment of an old release."""

    python: Path
    folder: Path

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Starts one of the scripts beside this file, far from this project's own `agentlightning`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGL_", "PYTHON"))}
        return subprocess.Popen(
            [str(self.python), str(HERE / script), *arguments],
            cwd=self.folder,
            env={**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, *arguments: str) -> None:
        """Runs one of the scripts, which must end well."""
        ended_well(self.start(script, *arguments))


def ended_well(*processes: subprocess.Popen[str]) -> None:
    """Waits for processes, which must end well."""
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=250)
            assert process.returncode == 0, printed[-5000:]
    finally:
        for process in processes:
            process.kill()


def _release(folder: str, tmp_path: Path) -> Release:
    python = REPOSITORY / folder / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{python} does not exist: run `make test-releases`")
    return Release(python, tmp_path)


@pytest.fixture
def release_0_2_2(tmp_path: Path) -> Release:
    return _release(".venv-release-0.2.2", tmp_path)


@pytest.fixture
def release_0_3_0(tmp_path: Path) -> Release:
    """The environment that benchmarks measure against."""
    return _release(".bench-venv", tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The server that users start, with its REST port."""
    with running([*COMMAND, "--port", "0", "--rest-port", "0"], tmp_path / "log") as process:
        address = said(process, r"agentlightning store listening on (\S+) .*")
        yield Server(address, said(process, r"agentlightning rest listening on (\S+)"))


@pytest_asyncio.fixture
async def store(server: Server) -> AsyncIterator[LightningStoreClient]:
    """The same store, as this release sees it."""
    client = LightningStoreClient(server.address)
    yield client
    await client.close()

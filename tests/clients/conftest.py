"""The clients in other languages, built once for all tests. Where a toolchain is missing, their tests are skipped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT, run
from store_process import StoreProcess

TYPESCRIPT = ROOT / "clients/typescript"
GO_SOURCES = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go libraries."""


@pytest.fixture(scope="session")
def typescript() -> Path:
    """The folder of the TypeScript client, with everything built."""
    if shutil.which("npm") is None:
        pytest.skip("NOT TESTED: the TypeScript client: there is no npm")
    if not (TYPESCRIPT / "node_modules").exists():
        pytest.skip("NOT TESTED: the TypeScript client: run `make test-clients`, which installs its packages")
    run(["npm", "run", "--silent", "pretest"], TYPESCRIPT)
    return TYPESCRIPT


@pytest.fixture(scope="session")
def go_environment() -> dict[str, str]:
    """What `go` needs to find the client and Debian's libraries, with the example runner built."""
    if shutil.which("go") is None or not (GO_SOURCES / "src/google.golang.org/grpc").exists():
        pytest.skip("NOT TESTED: the Go client: golang-go and golang-google-grpc-dev of Debian are not installed")
    workspace = ROOT / "build/go"
    link = workspace / "src/agentlightning"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT / "clients/go")
    environment = {"GO111MODULE": "off", "GOPATH": f"{workspace}:{GO_SOURCES}", "GOFLAGS": ""}
    run(["go", "build", "-o", str(workspace / "guess"), "agentlightning/cmd/guess"], ROOT, environment)
    return environment


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """A store server in memory; tests that share it work in experiments of their own."""
    server = StoreProcess(options=["--log-level", "ERROR"])
    server.start()
    yield server.address
    server.stop()


@pytest.fixture(scope="session")
def test_python() -> dict[str, str]:
    """Names this interpreter to tests that start servers by themselves."""
    return {"AGL_TEST_PYTHON": sys.executable}

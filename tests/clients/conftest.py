"""The clients in other languages, which `make clients` builds. Where one has not been built, its tests are skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT
from store_process import StoreProcess


@pytest.fixture(scope="session")
def typescript() -> Path:
    """The folder of the TypeScript client, with everything built."""
    folder = ROOT / "clients/typescript"
    if not (folder / "build/.built").exists():
        pytest.skip("NOT TESTED: the TypeScript client: `make clients` has not built it")
    return folder


@pytest.fixture(scope="session")
def go_environment() -> dict[str, str]:
    """What `go` needs to find the client, with the example runner built, and Debian's libraries."""
    workspace = ROOT / "build/go"
    if not (workspace / "guess").exists():
        pytest.skip("NOT TESTED: the Go client: `make clients` has not built it")
    return {"GO111MODULE": "off", "GOPATH": f"{workspace}:/usr/share/gocode", "GOFLAGS": ""}


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

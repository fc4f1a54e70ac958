"""A store server that is started as users start it, and an experiment for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from agl_calls import COMMAND, Run
from store_process import StoreProcess

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def served() -> Iterator[StoreProcess]:
    """`agl store`, which all tests share."""
    process = StoreProcess(command=[*COMMAND, "store"])
    process.start()
    yield process
    assert process.stop() == 0


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment that would name a store."""
    for name in ("AGL_STORE_ADDRESS", "AGL_STORE_EXPERIMENT", "AGL_SERVER_HOST", "AGL_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(served: StoreProcess) -> Iterator[Run]:
    """An experiment of the shared server that only this test uses."""
    experiment = Run(served.address, f"test-{next(_numbers)}")
    yield experiment
    experiment.store.close()

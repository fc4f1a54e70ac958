"""A server that is killed again and again under load loses nothing that it answered, and does nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from busy_client import SPANS_EACH
from store_invariants import check_store
from store_process import StoreProcess, environment

from lightning_store import v1

CLIENTS = 3
BATCHES = 60
KILLS = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the store."""
    return tmp_path / "store.db"


@pytest.fixture
def server(path: Path, tmp_path: Path) -> Iterator[StoreProcess]:
    """A server on that file."""
    process = StoreProcess(f"sqlite:///{path}", log=tmp_path / "log", options=["--grace", "1"])
    process.start()
    yield process
    process.kill()


class Clients:
    """Busy clients in processes of their own."""

    def __init__(self, address: str, seed: int) -> None:
        here = Path(__file__).parent
        python_path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(here / "busy_client.py"), f"client{number}", address, str(BATCHES), str(seed)],
                env=environment({"PYTHONPATH": python_path}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(CLIENTS)
        ]

    def records(self) -> list[dict[str, Any]]:
        """Return what each has been answered, once all of their rollouts are finished."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        answers = [process.communicate("enough\n", timeout=30)[0] for process in self.processes]
        return [json.loads(answer) for answer in answers]

    def kill(self) -> None:
        """End those that are left."""
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_and_nothing_is_there_twice(server: StoreProcess, path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clients = Clients(server.address, seed)
    try:
        for number in range(KILLS):
            time.sleep(chance.uniform(0.8, 1.8))
            if number == 2:
                server.signal(signal.SIGTERM)
                assert server.wait() == 0
            else:
                server.kill()
            check_store(path)
            time.sleep(chance.uniform(0.0, 0.3))
            server.start()
        records = clients.records()
    finally:
        clients.kill()
    assert server.stop() == 0
    check_store(path)
    with closing(sqlite3.connect(path)) as database:
        check_outcome(database, records)


def check_outcome(database: sqlite3.Connection, records: list[dict[str, Any]]) -> None:
    """Check that the store holds just what it answered."""
    enqueued = [name for record in records for name in record["enqueued"]]
    stored = dict(database.execute("SELECT rollout_id, status FROM rollouts"))
    assert sorted(stored) == sorted(enqueued)
    assert set(stored.values()) == {v1.ROLLOUT_STATUS_SUCCEEDED}

    # Those who waited have seen each of theirs, and no other.
    for record in records:
        assert record["seen"] == dict.fromkeys(record["enqueued"], "succeeded")

    # Each was claimed once, by whoever was answered so.
    claimed = [tuple(claim) for record in records for claim in record["claimed"]]
    attempts = database.execute(
        "SELECT rollout_id, attempt_id, claim_id FROM attempts JOIN rollouts ON rollouts.key = attempts.rollout"
    ).fetchall()
    assert sorted(claimed) == sorted(attempts)
    assert Counter(rollout_id for rollout_id, _, _ in claimed) == Counter(enqueued)
    assert sorted(name for record in records for name in record["reported"]) == sorted(enqueued)

    # Each span is there once, under the number that was answered.
    numbers = {name: given for record in records for name, given in record["spans"].items()}
    spans: dict[str, list[tuple[str, int]]] = {}
    for rollout_id, name, number in database.execute(
        "SELECT rollout_id, name, sequence_id FROM spans "
        "JOIN rollouts ON rollouts.key = spans.rollout ORDER BY spans.key"
    ):
        spans.setdefault(rollout_id, []).append((name, number))
    for rollout_id in enqueued:
        assert numbers[rollout_id] == list(range(1, SPANS_EACH + 1))
        assert spans[rollout_id] == [(f"{rollout_id}/{at}", at + 1) for at in range(SPANS_EACH)]

    # They were claimed in the order in which they were enqueued.
    claims = [key for (key,) in database.execute("SELECT rollout FROM attempts ORDER BY key")]
    assert claims == sorted(claims)
    keys = dict(database.execute("SELECT rollout_id, key FROM rollouts"))
    for record in records:
        own = [keys[name] for name in record["enqueued"]]
        assert own == sorted(own)

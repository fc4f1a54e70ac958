"""Runs whose algorithm and runners are apart, as on several machines: real processes and servers."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sample_agents
from processes import free_port, store_process, until
from sample_agents import note_name, wait_to_be_told

from agentlightning import (
    Algorithm,
    ClientServerExecutionStrategy,
    InMemoryLightningStore,
    LightningStoreClient,
    LightningStoreServer,
    SqliteLightningStore,
    Trainer,
)
from agentlightning.execution import current_worker_name

SCRIPT = Path(__file__).with_name("runner_side.py")


@contextmanager
def runners_elsewhere(port: int, agent: str, n_runners: int) -> Iterator[subprocess.Popen[str]]:
    """Starts a process in the role `runner`."""
    environment = {**os.environ, "AGL_CURRENT_ROLE": "runner", "AGL_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), agent, str(n_runners)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ends_by_itself(process: subprocess.Popen[str]) -> str:
    """Returns what a process printed that left in peace."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "left in peace" in output
    return output


class Waiting(Algorithm):
    """Runs some tasks, and ends when so many runners named so are idle; or, with `hastily`, when they have begun."""

    def __init__(self, tasks: list[Any], n_runners: int, named: str, hastily: Path | None = None) -> None:
        self.tasks, self.n_runners, self.named, self.hastily = tasks, n_runners, named, hastily
        self.workers: list[Any] = []
        self.ended = 0.0

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        store = self.get_store()
        await store.add_resources({})
        ids = [(await store.enqueue_rollout(task)).rollout_id for task in self.tasks]
        if self.hastily is None:
            done = await store.wait_for_rollouts(rollout_ids=ids, timeout=30)
            assert [item.status for item in done] == ["succeeded"] * len(self.tasks)
            idle: Any = ()
            while len(idle) < self.n_runners:
                idle = await store.query_workers(status_in=["idle"], worker_id_contains=self.named)
                await asyncio.sleep(0.05)
        else:
            await until(self.hastily.exists)
        self.workers = list(await store.query_workers())
        self.ended = time.monotonic()


@pytest.mark.parametrize(("n_runners", "runs"), [(1, 1), (2, 2)])
def test_runners_elsewhere_leave_in_the_middle_of_a_long_poll_when_the_algorithm_ends(
    n_runners: int, runs: int, tmp_path: Path
) -> None:
    port = free_port()
    path = tmp_path / "store.db"
    # Twice, because a store that lasts must not keep the second run's runners from working. Runners may come first.
    for _ in range(runs):
        with runners_elsewhere(port, "Echo", n_runners) as elsewhere:
            store = SqliteLightningStore(path)
            algorithm = Waiting([{"do": "reward", "value": 1}] * 2 * n_runners, n_runners, f"-{elsewhere.pid}")
            strategy = ClientServerExecutionStrategy(role="algorithm", server_port=port)
            Trainer(algorithm=algorithm, store=store, strategy=strategy).fit(sample_agents.Echo())
            ends_by_itself(elsewhere)
            assert time.monotonic() - algorithm.ended < 8
            pattern = re.compile(rf"Worker-\d+@{re.escape(socket.gethostname())}-{elsewhere.pid}")
            ours = [worker for worker in algorithm.workers if pattern.fullmatch(worker.worker_id)]
            assert len(ours) == n_runners
            store.close_now()


def test_rollouts_at_work_elsewhere_are_finished_when_there_is_time_and_else_aborted(tmp_path: Path) -> None:
    port = free_port()
    store = InMemoryLightningStore()
    for name, seconds in (("short", 0.5), ("long", 60.0)):
        mark = tmp_path / name
        with runners_elsewhere(port, "SleepyAsync", 1) as elsewhere:
            algorithm = Waiting([{"seconds": seconds, "mark": str(mark)}], 1, f"-{elsewhere.pid}", hastily=mark)
            strategy = ClientServerExecutionStrategy(role="algorithm", server_port=port, graceful_timeout=2.0)
            Trainer(algorithm=algorithm, store=store, strategy=strategy).fit(sample_agents.SleepyAsync())
            ends_by_itself(elsewhere)

    async def statuses() -> list[Any]:
        return [(item.status, item.attempt.failure) for item in await store.query_rollouts()]  # type: ignore[attr-defined]

    short, long = asyncio.run(statuses())
    assert short == ("succeeded", None)
    assert (long[0], long[1].kind) == ("failed", "cancelled")
    assert (tmp_path / "long").read_text() == "cancelled"


def test_runners_from_elsewhere_join_those_of_the_run_and_leave_with_them() -> None:
    port = free_port()
    with runners_elsewhere(port, "Echo", 1) as elsewhere:
        algorithm = Waiting([{"do": "reward", "value": 1}] * 4, 2, "Worker-0")
        Trainer(algorithm=algorithm, port=port).fit(sample_agents.Echo())
        ends_by_itself(elsewhere)
    assert {worker.worker_id.split("@")[0] for worker in algorithm.workers} == {"Worker-0"}
    assert len(algorithm.workers) == 2


def test_runners_of_one_run_keep_their_short_names() -> None:
    store = InMemoryLightningStore()
    ClientServerExecutionStrategy(n_runners=2).execute(wait_to_be_told, note_name, store)
    assert current_worker_name() is None

    async def names() -> list[str]:
        return sorted(worker.worker_id for worker in await store.query_workers())

    assert asyncio.run(names()) == ["Worker-0", "Worker-1"]


def test_a_server_that_others_could_reach_needs_a_word() -> None:
    # A way to write 127.0.0.1 that is taken for it neither here nor by gRPC, so that nothing really listens.
    host = "127.1"
    with pytest.raises(ValueError, match=r"Refusing to listen on 127\.1.*insecure=True"):
        ClientServerExecutionStrategy(server_host=host).execute(wait_to_be_told, note_name, InMemoryLightningStore())
    # With it, nothing but the address itself is in the way.
    with pytest.raises(OSError, match=r"Cannot listen on 127\.1"):
        ClientServerExecutionStrategy(server_host=host, insecure=True).execute(
            wait_to_be_told, note_name, InMemoryLightningStore()
        )


class Misleading(LightningStoreServer):
    """A server whose address leads elsewhere, as `localhost` can where two servers have a half of it each."""

    leads_to = ""

    def __reduce__(self) -> Any:
        return LightningStoreClient, (self.leads_to,)


def test_runners_refuse_to_work_on_the_store_of_another_training(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryLightningStore()
    ran = []

    async def run() -> None:
        with store_process() as foreign:
            server = Misleading(store, port=0)
            server.leads_to = foreign.address
            await server.start()
            try:
                strategy = ClientServerExecutionStrategy(max_restarts=0)
                await asyncio.to_thread(strategy.execute, wait_to_be_told, note_name, server)
            finally:
                ran.append((server.endpoint, foreign.address))
                await server.stop()
            raise AssertionError("the run went on")

    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(RuntimeError, match=r"was started to work on store \w+ at .*, but it reaches store") as caught,
    ):
        asyncio.run(run())
    for address in ran[0]:
        assert address in str(caught.value)


def test_a_second_training_cannot_take_the_port_of_the_first() -> None:
    async def occupied() -> None:
        server = LightningStoreServer(InMemoryLightningStore(), port=0)
        await server.start()
        port = int(server.endpoint.rsplit(":", 1)[1])
        strategy = ClientServerExecutionStrategy(server_port=port)
        try:
            await asyncio.to_thread(strategy.execute, wait_to_be_told, note_name, InMemoryLightningStore())
        finally:
            await server.stop()

    with pytest.raises(OSError, match="the port is in use"):
        asyncio.run(occupied())

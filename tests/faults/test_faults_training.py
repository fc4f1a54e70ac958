"""A whole training run over two servers of one database goes on while each of them is killed in turn."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from history import Journal, read_history
from history_checker import read_store, violations
from postgres import SERVER
from store_invariants import check_postgres
from store_process import StoreProcess, environment
from training_agent import NotingAgent

from agentlightning import LightningStore, LightningStoreClient, PromptTemplate, Trainer, algo, find_final_reward
from agentlightning.store.remote.api import connect

STEPS = 4
TASKS = list(range(1, 9))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[StoreProcess]]:
    """Two servers over one database."""
    url = SERVER.url_of(tmp_path)
    made = [StoreProcess(url, log=tmp_path / f"log{number}") for number in range(2)]
    for server in made:
        server.start()
    yield made
    for server in made:
        server.kill()
    check_postgres(url)
    SERVER.take_back(tmp_path)


@contextmanager
def watcher(addresses: str, folder: Path) -> Iterator[None]:
    """A client of its own process that follows every change, and has heard of all of them in the end."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), environment().get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).with_name("fault_client.py")), "watcher", "watcher", addresses]
    with subprocess.Popen(
        [*command, str(folder / "watcher.history"), "0", "0"],
        env=environment({"PYTHONPATH": path}),
        stdin=subprocess.PIPE,
    ) as process:
        try:
            yield
            process.communicate(b"enough\n")
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.timeout(180)
def test_a_training_run_ends_as_if_nothing_had_happened(servers: list[StoreProcess], tmp_path: Path) -> None:
    rewards: dict[int, list[float | None]] = {}

    @algo
    async def improve(*, store: LightningStore, train_dataset: Any) -> None:
        for step in range(1, STEPS + 1):
            await store.add_resources({"prompt": PromptTemplate(template=str(step), engine="f-string")})
            names = [f"step{step}-{task}" for task in train_dataset]
            with journal.call("enqueue", names=names):
                for name, task in zip(names, train_dataset, strict=True):
                    await store.enqueue_rollout(task, rollout_id=name)
            victim = servers[step - 1] if step <= len(servers) else None
            async for ended in store.wait_iter(rollout_ids=names):
                with journal.call("wait") as answer:
                    answer.noted = {ended.rollout_id: ended.status.upper()}
                if victim is not None and victim.is_running:  # now that the others of this step are at work
                    victim.kill()
            if victim is not None:
                await asyncio.to_thread(victim.start)
            rewards[step] = [find_final_reward(await store.query_spans(name)) for name in names]

    addresses = ",".join(server.address for server in servers)
    notes = tmp_path / "notes"
    with closing(Journal(tmp_path / "algorithm.history", "algorithm")) as journal, watcher(addresses, tmp_path):
        trainer = Trainer(n_runners=3, algorithm=improve, store=LightningStoreClient(addresses), strategy="cs")
        trainer.fit(NotingAgent(notes), TASKS)

    async def stored() -> Any:
        api = connect(addresses)
        found = await read_store(api)
        await api.close()
        return found

    found = asyncio.run(stored())
    assert rewards == {step: [step * task for task in TASKS] for step in range(1, STEPS + 1)}
    assert set(found.rollouts.values()) == {"SUCCEEDED"}
    # The runners keep no history of what they sent.
    assert violations(read_history(tmp_path.glob("*.history")), replace(found, spans={})) == []
    runs = Counter(notes.read_text().splitlines())
    assert runs == Counter(f"{name} {attempt}" for name, made in found.attempts.items() for attempt in made)

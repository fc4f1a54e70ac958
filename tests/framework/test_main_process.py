"""The client-server strategy with the runner in the main process, where a debugger sees the agent."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sample_agents
from processes import runner_processes, store_process, until_gone

from agentlightning import (
    ClientServerExecutionStrategy,
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    PromptTemplate,
    Trainer,
    algo,
    find_final_reward,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True)
def _no_process_is_left_behind() -> Any:
    yield
    assert until_gone(runner_processes(os.getpid()), timeout=5) == set()


def trainer(algorithm: Any, store: LightningStore | None = None, **arguments: Any) -> Trainer:
    return Trainer(
        algorithm=algorithm,
        strategy=ClientServerExecutionStrategy(main_process="runner", **arguments),
        store=store,
        initial_resources={"prompt": PromptTemplate(template="", engine="f-string")},
    )


async def whereabouts(store: LightningStore) -> list[tuple[str, float | None, int]]:
    """Returns of each rollout its status, the process that ran it, and the one that asked for it."""
    return [
        (item.status, find_final_reward(await store.query_spans(item.rollout_id)), (item.metadata or {})["asked by"])
        for item in await store.query_rollouts()
    ]


def test_the_agent_runs_here_and_the_algorithm_elsewhere() -> None:
    store = InMemoryLightningStore()
    trainer(sample_agents.enqueue_and_wait, store).fit(sample_agents.WhereAmI(), ["a", "b"])
    found = asyncio.run(whereabouts(store))
    assert len(found) == 2
    for status, ran_by, asked_by in found:
        assert (status, ran_by) == ("succeeded", os.getpid())
        assert asked_by != os.getpid()


def test_both_may_meet_at_a_server_elsewhere() -> None:
    with store_process() as server:
        client = LightningStoreClient(server.address)
        trainer(sample_agents.enqueue_and_wait, client).fit(sample_agents.WhereAmI(), ["a"])
        ((status, ran_by, _),) = asyncio.run(whereabouts(client))
        assert (status, ran_by) == ("succeeded", os.getpid())


def test_an_algorithm_that_fails_ends_the_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"algorithm \(pid \d+\) ended with exit code 1: LookupError: lost the"):
        trainer(sample_agents.failing_algorithm).fit(sample_agents.SleepyAsync(), [{"seconds": 60, "mark": str(mark)}])
    assert mark.read_text() == "cancelled"
    assert time.monotonic() - began < 20


def test_a_runner_that_fails_ends_the_run_with_its_error() -> None:
    async def failing(store: Any, worker_id: int, event: Any) -> None:
        raise LookupError("no way")

    strategy = ClientServerExecutionStrategy(main_process="runner")
    with pytest.raises(RuntimeError, match=r"no runner is left.*LookupError: no way") as caught:
        strategy.execute(sample_agents.wait_to_be_told, failing, InMemoryLightningStore())
    assert isinstance(caught.value.__cause__, LookupError)


def test_what_cannot_be_sent_to_another_process_is_named() -> None:
    @algo
    async def local_algorithm(*, store: Any) -> None:
        raise AssertionError("never runs")

    with pytest.raises(TypeError, match=r"the algorithm cannot be sent to another process.*at the top level"):
        trainer(local_algorithm).fit(sample_agents.WhereAmI())
    with pytest.raises(TypeError, match=r"the store cannot be sent.*or pass a LightningStoreClient"):
        trainer(sample_agents.enqueue_and_wait, InMemoryLightningStore(), managed_store=False).fit(
            sample_agents.WhereAmI()
        )

"""Training against a legacy server, with runners in this process and in processes of their own."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from legacy_agents import AsyncAgent, DoublingAgent, DyingAgent, WaitingAlgorithm

from agentlightning.client import AgentLightningClient, DevTaskLoader
from agentlightning.litagent.litagent import LitAgent
from agentlightning.server import AgentLightningServer
from agentlightning.trainer import Trainer
from agentlightning.types import RolloutLegacy

T = TypeVar("T")


class ServerThread:
    """A legacy server on a loop of its own, for tests that block."""

    def __init__(self, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.server = AgentLightningServer(port=0, **settings)
        self.run(self.server.start())

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        """Awaits there."""
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(60)

    def queue(self, sample: Any) -> str:
        """Queues a task."""
        return self.run(self.server.queue_task(sample, "train"))

    def reports(self) -> list[RolloutLegacy]:
        """Returns the reports that there are."""
        return self.run(self.server.retrieve_completed_rollouts())

    def close(self) -> None:
        """Ends it."""
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def served() -> Iterator[ServerThread]:
    """A legacy server with resources."""
    thread = ServerThread(task_timeout_seconds=1.0)
    thread.run(thread.server.update_resources({}))
    yield thread
    thread.close()


def client_of(endpoint: str) -> AgentLightningClient:
    """A client that asks often."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AgentLightningClient(endpoint, poll_interval=0.05)


def fit(trainer: Trainer, *arguments: Any, **more: Any) -> None:
    """Trains in the old way."""
    with pytest.warns(DeprecationWarning, match="fit_v0 is deprecated; use fit"):
        trainer.fit_v0(*arguments, **more)


@pytest.mark.parametrize("agent", [DoublingAgent(), AsyncAgent()], ids=["sync", "async"])
def test_one_runner_works_in_this_process(served: ServerThread, agent: LitAgent[Any]) -> None:
    for number in range(3):
        served.queue(number)
    fit(Trainer(max_rollouts=3), agent, served.server.endpoint)
    assert [report.final_reward for report in served.reports()] == [0.0, 2.0, 4.0]


def test_a_client_or_a_development_server_may_stand_for_the_url(served: ServerThread) -> None:
    served.queue(1)
    fit(Trainer(max_rollouts=1), DoublingAgent(), client_of(served.server.endpoint))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = DevTaskLoader([4, 5], {})
    fit(Trainer(max_rollouts=2), DoublingAgent(), "http://127.0.0.1:1", dev_backend=loader)
    assert [report.final_reward for report in loader.rollouts] == [8.0, 10.0]


def test_several_runners_work_in_processes_of_their_own(served: ServerThread, tmp_path: Path) -> None:
    (tmp_path / "died").touch()
    for number in range(2):
        served.queue(number)
    fit(Trainer(n_runners=2, max_rollouts=1), DyingAgent(tmp_path / "died"), served.server.endpoint)
    processes = {report.final_reward for report in served.reports()}
    assert len(processes) == 2
    assert float(os.getpid()) not in processes


def test_a_runner_that_dies_is_started_again_and_its_task_is_handed_out_again(
    served: ServerThread, tmp_path: Path
) -> None:
    algorithm = WaitingAlgorithm(served.queue, client_of(served.server.endpoint), served.reports)
    trainer = Trainer(n_runners=1, algorithm=algorithm, progress=False)
    fit(trainer, DyingAgent(tmp_path / "died"), [6, 7, 8])
    assert (tmp_path / "died").exists()
    assert len(algorithm.rewards) == 3
    assert None not in algorithm.rewards


def test_somebody_must_name_a_server() -> None:
    with pytest.raises(ValueError, match="needs a server"), pytest.warns(DeprecationWarning, match="fit_v0"):
        Trainer().fit_v0(DoublingAgent(), [1, 2])


async def test_it_refuses_to_block_a_running_loop() -> None:
    with (
        pytest.raises(RuntimeError, match=r"asyncio\.to_thread\(trainer\.fit_v0"),
        pytest.warns(DeprecationWarning, match="fit_v0"),
    ):
        Trainer().fit_v0(DoublingAgent(), "http://127.0.0.1:1")


def test_an_agent_that_cannot_be_sent_is_told_before_anything_runs() -> None:
    class Local(DoublingAgent):
        pass

    with pytest.raises(TypeError, match="the agent cannot be sent"), pytest.warns(DeprecationWarning, match="fit_v0"):
        Trainer(n_runners=2).fit_v0(Local(), "http://127.0.0.1:1")


def test_the_client_is_there_between_init_and_teardown() -> None:
    trainer = Trainer()
    with pytest.raises(RuntimeError, match="has no client"):
        trainer.client()
    trainer.init("http://127.0.0.1:1")
    assert trainer.client().endpoint == "http://127.0.0.1:1"
    trainer.teardown()
    with pytest.raises(RuntimeError, match="has no client"):
        trainer.client()
    Trainer.kill_orphaned_processes()

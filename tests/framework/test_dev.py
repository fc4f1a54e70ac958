"""`Trainer.dev`: whatever the agent does, the run ends and says what happened."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from typing import Any

import pytest
import sample_agents

from agentlightning import (
    Algorithm,
    InMemoryLightningStore,
    LightningStoreClient,
    LightningStoreServer,
    LitAgent,
    LitAgentRunner,
    PromptTemplate,
    Trainer,
    algo,
    prompt_rollout,
)
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.algorithm import Baseline, FastAlgorithm
from agentlightning.emitter.message import emit_message
from agentlightning.runner import attempt as attempt_module

LIMIT = 60
"""Seconds in which the longest of these runs must have ended; each takes far less."""


class Doing(LitAgent[Any]):
    """Does what its task says."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.hanging: list[threading.Thread] = []

    def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
        if task == "raise":
            raise LookupError("no such street")
        if task == "exit":
            sys.exit(3)
        if task == "hang":
            self.hanging.append(threading.current_thread())
            self.let_go.wait()
        if task == "nonsense":
            return {"answer": object()}
        if task == "reward":
            return 0.75
        emit_message("did nothing")
        return None


class HangingAsync(LitAgent[Any]):
    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
        await asyncio.Event().wait()


def trainer_in_threads(**options: Any) -> Trainer:
    """A trainer whose runners hear soon that a rollout has been given up."""
    return Trainer(
        **{
            "strategy": {"type": "shm", "graceful_delay": 0.5, "join_timeout": 5.0},
            "runner": {"type": LitAgentRunner, "heartbeat_interval": 0.2},
            "algorithm": Baseline(rollout_timeout=1.0),
            "store": InMemoryLightningStore(),
            **options,
        }
    )


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: capsys.readouterr().out


@pytest.mark.timeout(LIMIT)
def test_every_rollout_is_reported_with_its_end(report: Any) -> None:
    trainer = trainer_in_threads()
    trainer.dev(Doing(), ["reward", "raise"], val_dataset=["exit", "nothing", "nonsense"])
    text = report()
    assert text.startswith("dev: 5 rollouts: 3 succeeded, 2 failed\n")
    lines = {match[1]: match[0] for match in re.finditer(r"^  ro-.*input '(\w+)'$", text, re.MULTILINE)}
    assert re.search(r"ro-\w+  succeeded  1 attempt  1 span  reward 0\.75  no triplets  mode train", lines["reward"])
    assert re.search(r"ro-\w+  failed  1 attempt  no spans  no reward  mode train", lines["raise"])
    assert re.search(r"ro-\w+  succeeded  1 attempt  1 span  no reward  no triplets  mode val", lines["nothing"])
    assert "succeeded" in lines["nonsense"]
    assert "failed" in lines["exit"]
    assert "    attempt 1 failed: agent_error: LookupError: no such street\n" in text
    assert "SystemExit(3)" in text


@pytest.mark.timeout(LIMIT)
def test_the_report_says_why_there_are_no_triplets(report: Any) -> None:
    trainer_in_threads().dev(Doing(), ["nothing", "nothing"])
    text = report()
    assert "2 rollouts: none of 1 spans is a model call (agentlightning.message x1)" in text
    assert "2 rollouts: no span carries a reward" in text


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("kind", [Doing, HangingAsync])
def test_agents_that_hang_do_not_hang_the_run(kind: Any, report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "STOP_GRACE_SECONDS", 0.3)
    agent = kind()
    try:
        trainer_in_threads().dev(agent, ["hang", "hang"])
    finally:
        # An attempt whose agent lives on is one that threads of other tests might belong to.
        if isinstance(agent, Doing):
            agent.let_go.set()
            for thread in agent.hanging:
                thread.join(10)
    text = report()
    assert text.startswith("dev: 2 rollouts: 2 failed\n")
    assert text.count("attempt 1 timeout: timeout: ") == 2


def test_missing_resources_are_named(report: Any) -> None:
    @prompt_rollout
    def needs_a_prompt(task: Any, prompt_template: Any) -> float:
        return 1.0

    trainer_in_threads().dev(needs_a_prompt, [1])
    text = report()
    assert text.startswith("dev: 1 rollout: 1 failed\n")
    assert "attempt 1 failed: missing_resources: needs_a_prompt needs a resource of type PromptTemplate" in text


def test_initial_resources_reach_the_agent(report: Any) -> None:
    resources: Any = {"prompt": PromptTemplate(template="Hello {name}", engine="f-string")}
    trainer_in_threads(initial_resources=resources).dev(sample_agents.greet, [{"name": "A", "reward": 0.5}])
    assert "reward 0.5" in report()


@pytest.mark.parametrize("datasets", [(None, None), ([], [])])
def test_empty_datasets_are_refused(datasets: Any, report: Any) -> None:
    with pytest.raises(ValueError, match="there is nothing to run"):
        trainer_in_threads().dev(Doing(), datasets[0], val_dataset=datasets[1])
    assert report() == "dev: no rollout was enqueued\n"


def test_a_sample_that_cannot_be_sent_is_named_and_what_ran_is_reported(report: Any) -> None:
    with pytest.raises(TypeError, match=r"train_dataset\[1\] cannot be sent to a runner: input is a set"):
        trainer_in_threads().dev(Doing(), ["reward", {"a set"}])
    assert "input 'reward'" in report()


def test_several_runners_work_at_once(report: Any) -> None:
    together = threading.Barrier(3)

    class Meeting(Doing):
        def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            return float(together.wait(30))

    trainer_in_threads(n_runners=3, algorithm=Baseline()).dev(Meeting(), [1, 2, 3])
    assert report().startswith("dev: 3 rollouts: 3 succeeded\n")


def test_only_rollouts_of_this_run_are_reported(report: Any) -> None:
    store = InMemoryLightningStore()
    for _ in range(2):
        trainer_in_threads(store=store).dev(Doing(), ["reward"])
    text = report()
    assert text.count("dev: 1 rollout: 1 succeeded\n") == 2


def test_an_adapter_of_another_kind_is_told_by_its_items(report: Any) -> None:
    class Halves:
        def adapt(self, spans: Any) -> list[str]:
            return [span.name for span in spans] * 2

    class Raising:
        def adapt(self, spans: Any) -> None:
            raise LookupError("nothing in there")

    trainer_in_threads(adapter=Halves()).dev(Doing(), ["reward"])
    text = report()
    assert "adapted to 2 strs" in text
    assert "1 rollout: none of 1 spans is a model call" in text
    trainer_in_threads(adapter=Raising()).dev(Doing(), ["reward"])
    assert "1 rollout: Raising raised LookupError: nothing in there" in report()
    trainer_in_threads(adapter=TraceToMessages()).dev(Doing(), ["nothing"])
    assert "none of 1 spans is a model call" in report()


def test_a_long_report_is_cut(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.trainer.dev_report.MOST_ROLLOUTS", 2)
    trainer_in_threads().dev(Doing(), ["reward"] * 3)
    text = report()
    assert text.startswith("dev: 3 rollouts, the first 2 of which: 2 succeeded\n")
    assert text.count("input 'reward'") == 2


def test_without_an_algorithm_it_is_the_baseline(report: Any) -> None:
    trainer = trainer_in_threads(algorithm=None)
    trainer.dev(Doing(), ["reward"])
    assert report().startswith("dev: 1 rollout: 1 succeeded\n")
    assert trainer.algorithm is None


def test_a_fast_algorithm_of_ones_own_is_taken(report: Any) -> None:
    class Own(FastAlgorithm):
        def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            store: Any = self.get_store()
            store.add_resources({})
            rollout = store.enqueue_rollout("reward", mode="test")
            store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])

    trainer_in_threads(algorithm=Own()).dev(Doing())
    assert "mode test, input 'reward'" in report()


def test_an_algorithm_that_is_not_fast_is_refused() -> None:
    @algo
    async def slow() -> None: ...

    class Slow(Algorithm): ...

    for algorithm, name in ((slow, "FunctionalAlgorithm"), (Slow(), "Slow")):
        with pytest.raises(TypeError, match=f"dev runs a FastAlgorithm, such as Baseline, and not {name}"):
            trainer_in_threads(algorithm=algorithm).dev(Doing(), ["reward"])


def test_a_string_is_no_dataset() -> None:
    with pytest.raises(TypeError, match="dev needs samples, not the string 'http://old-server:8000'"):
        trainer_in_threads().dev(Doing(), "http://old-server:8000")
    with pytest.raises(TypeError, match="fit needs samples, not the string 'val'"):
        trainer_in_threads().fit(Doing(), [1], val_dataset="val")


async def test_an_experiment_may_begin_with_the_run(report: Any) -> None:
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    store = LightningStoreClient(server.endpoint, experiment="ablation-7")
    await asyncio.to_thread(trainer_in_threads(store=store, algorithm=None).dev, Doing(), ["reward"])
    await store.close()
    await server.stop()
    assert report().startswith("dev: 1 rollout: 1 succeeded\n")


async def test_dev_refuses_to_block_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(trainer\.dev, \.\.\.\)"):
        trainer_in_threads().dev(Doing(), ["reward"])


@pytest.mark.timeout(120)
def test_an_agent_that_ends_its_process_does_not_hang_the_run(report: Any) -> None:
    trainer = Trainer(
        strategy={"type": "cs", "max_restarts": 0},
        algorithm=Baseline(rollout_timeout=60.0),
        runner={"type": LitAgentRunner, "heartbeat_interval": 0.2},
    )
    samples = [{"do": "reward", "value": 0.5}, {"do": "exit", "code": 7}, {"do": "reward", "value": 1}]
    with pytest.raises(RuntimeError, match=r"no runner is left.*exit code 7"):
        trainer.dev(sample_agents.Echo(), samples)
    text = report()
    assert text.startswith("dev: 3 rollouts: ")
    assert "1 succeeded" in text
    assert "reward 0.5" in text

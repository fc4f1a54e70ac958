"""`VERL` runs verl's command with a config and tasks that lead it to this store. A stand-in is run as that command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import TASKS

import agentlightning as agl
from agentlightning.algorithm.verl.settings import AGENT_LOOPS

pytestmark = pytest.mark.timeout(300)  # the stand-in is a process that imports transformers

HERE = Path(__file__).parent
SMALL = {"actor_rollout_ref": {"model": {"path": "tiny"}, "rollout": {"agent": {"num_workers": 2}}}}


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets processes that are started find the stand-in where they look for verl."""
    package = tmp_path / "site" / "verl" / "trainer"
    package.mkdir(parents=True)
    (package / "main_ppo.py").write_text((HERE / "verl_command.py").read_text())
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path / "site"), str(HERE))))


@pytest.fixture
def instead_of_verl(tmp_path: Path) -> Callable[[str], None]:
    """Returns what puts other code in the place of the stand-in."""
    return lambda code: (tmp_path / "site" / "verl" / "trainer" / "main_ppo.py").write_text(code) and None


@agl.rollout
async def answer_colour(task: dict[str, str], llm: agl.LLM, prompt_template: agl.PromptTemplate) -> float:
    message = {"role": "user", "content": prompt_template.format(colour=task["colour"])}
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        answer = await client.post(f"{llm.endpoint}/chat/completions", json={"model": llm.model, "messages": [message]})
    answer.raise_for_status()
    return float(answer.json()["choices"][0]["message"]["content"] == task["answer"])


def test_a_trainer_runs_verl_whose_samples_are_rollouts_of_its_runners(tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore()
    config = {**SMALL, "agentlightning": {"rollout": {"timeout_seconds": 300.0}}}
    algorithm = agl.VERL(config, run="colours", folder=tmp_path)
    wrong = {"colour": "red", "answer": "go"}
    agl.Trainer(
        algorithm=algorithm,
        store=store,
        strategy="shm",
        runner=agl.LitAgentRunner(agl.OtelTracer(), max_concurrency=4),
        initial_resources={"prompt": agl.PromptTemplate(template="{colour}", engine="f-string")},
    ).fit(answer_colour, [*TASKS, wrong], val_dataset=TASKS)

    assert json.loads((algorithm.folder / "rewards.json").read_text()) == [1.0, 1.0, 0.0, 1.0, 1.0]
    rollouts = asyncio.run(_all(store))
    assert sorted((each.mode, each.input["answer"]) for each in rollouts) == [
        ("train", "go"),
        ("train", "go"),
        ("train", "stop"),
        ("val", "go"),
        ("val", "stop"),
    ]
    for rollout in rollouts:
        assert rollout.rollout_id.startswith("colours-")
        assert rollout.config.timeout_seconds == 300.0


async def _all(store: agl.LightningStore) -> list[agl.Rollout]:
    return list(await store.query_rollouts())


def algorithm_of(store: agl.LightningStore, folder: Path, **config: Any) -> agl.VERL:
    algorithm = agl.VERL({**SMALL, **config}, folder=folder)
    algorithm.set_store(store)
    return algorithm


async def test_when_verl_fails_the_run_does_and_what_is_left_is_cancelled(tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore()
    await store.enqueue_rollout("of somebody else")
    algorithm = algorithm_of(store, tmp_path, stand_in="crash")
    with pytest.raises(RuntimeError, match=r"verl ended with exit code 3; .*verl\.yaml"):
        await algorithm.run(TASKS)
    statuses = [each.status for each in await store.query_rollouts()]
    assert statuses == ["queuing", *["cancelled"] * len(TASKS)]
    await store.close()


async def test_when_the_run_is_cancelled_verl_is_stopped(tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore()
    algorithm = algorithm_of(store, tmp_path)
    running = asyncio.create_task(algorithm.run(TASKS))
    while len(await store.query_rollouts()) < len(TASKS):  # noqa: ASYNC110  enqueued by another process
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(int((algorithm.folder / "pid").read_text()), 0)
    assert [each.status for each in await store.query_rollouts()] == ["cancelled"] * len(TASKS)
    assert not (algorithm.folder / "rewards.json").exists()
    await store.close()


def test_verl_that_does_not_stop_is_killed_in_the_time_that_a_trainer_leaves(tmp_path: Path) -> None:
    @agl.rollout
    async def agent(task: dict[str, str], llm: agl.LLM) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        return 1.0

    store = agl.InMemoryLightningStore()
    algorithm = agl.VERL({**SMALL, "stand_in": "stubborn"}, folder=tmp_path)
    with pytest.raises(SystemExit):
        agl.Trainer(algorithm=algorithm, store=store, strategy="shm").fit(agent, TASKS)
    process = int((algorithm.folder / "pid").read_text())
    try:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert {each.status for each in asyncio.run(_all(store))} == {"cancelled"}


async def test_what_a_run_of_the_same_name_left_behind_is_cancelled_before_verl_begins(
    tmp_path: Path, instead_of_verl: Callable[[str], None]
) -> None:
    instead_of_verl(
        """
import asyncio, json, pathlib, sys
import agentlightning as agl
config = json.loads((pathlib.Path(sys.argv[2]) / (sys.argv[4] + ".yaml")).read_text())["agentlightning"]
(left,) = asyncio.run(agl.LightningStoreClient(config["store"]).query_rollouts())
sys.exit(left.status != "cancelled")
"""
    )
    store = agl.InMemoryLightningStore()
    left = agl.EnqueueRolloutRequest(input="x", rollout_id="colours-1", metadata={"run": "colours"})
    await store.enqueue_many_rollouts([left])
    algorithm = agl.VERL(SMALL, run="colours", folder=tmp_path)
    algorithm.set_store(store)
    await algorithm.run(TASKS)
    await store.close()


async def test_a_store_that_has_gone_does_not_hide_why_verl_failed(
    tmp_path: Path, instead_of_verl: Callable[[str], None]
) -> None:
    instead_of_verl("raise SystemExit(4)")
    store = agl.LightningStoreClient("127.0.0.1:1", connection_timeout=0.1)
    with pytest.raises(RuntimeError, match="verl ended with exit code 4"):
        await algorithm_of(store, tmp_path).run(TASKS)
    await store.close()


async def test_a_gateway_of_the_trainer_is_not_used_and_the_log_says_so(
    tmp_path: Path, instead_of_verl: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    instead_of_verl("")
    store = agl.InMemoryLightningStore()
    algorithm, gateway = algorithm_of(store, tmp_path), agl.LLMProxy(store=store)
    algorithm.set_llm_proxy(gateway)
    await algorithm.run(TASKS)
    assert [each.getMessage().partition(":")[0] for each in caplog.records if each.levelname == "WARNING"] == [
        "VERL does not use the llm_proxy of the trainer"
    ]
    await store.close()


async def test_without_tasks_there_is_nothing_to_run(tmp_path: Path) -> None:
    algorithm = algorithm_of(agl.InMemoryLightningStore(), tmp_path)
    for tasks in (None, []):
        with pytest.raises(ValueError, match=r"train_dataset .* or data\.train_files"):
            await algorithm.run(tasks)
    files = algorithm_of(agl.InMemoryLightningStore(), tmp_path, data={"train_files": "train.parquet"})
    with pytest.raises(ValueError, match=r"val_dataset only beside a train_dataset"):
        await files.run(val_dataset=TASKS)
    with pytest.raises(TypeError, match=r"dataset\[1\]\.when"):
        await algorithm.run([{"when": 1}, {"when": object()}])


async def test_a_store_that_verls_processes_cannot_reach_is_refused(tmp_path: Path) -> None:
    algorithm = algorithm_of(agl.LightningStoreThreaded(agl.InMemoryLightningStore()), tmp_path)
    with pytest.raises(TypeError, match="LightningStoreThreaded: use a LightningStoreClient"):
        await algorithm.run(TASKS)
    algorithm.get_store().stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"agentlightning": {"port": 9999}}, "port"),
        ({"agentlightning": {"rollout": {"timeout_seconds": "long"}}}, "timeout_seconds"),
    ],
)
def test_a_section_that_is_none_is_refused_before_anything_starts(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        agl.VERL(config)


def test_a_config_that_is_no_dictionary_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a dictionary, not a str"):
        agl.VERL("config.yaml")  # type: ignore[arg-type]


async def of_the_command(*arguments: str) -> tuple[int | None, str]:
    """Returns the exit code and the output of `python -m agentlightning.verl`."""
    command = (sys.executable, "-W", "error", "-m", "agentlightning.verl", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_command_runs_verls_with_our_agent_loop_and_cancels_what_is_left_in_the_end(
    instead_of_verl: Callable[[str], None],
) -> None:
    instead_of_verl(
        """
import asyncio, sys
import agentlightning as agl
print(*sys.argv[1:], sep="\\n")
given = dict(each.lstrip("+").split("=") for each in sys.argv[3:])
async def main():
    client = agl.LightningStoreClient(given["agentlightning.store"])
    metadata = {"run": given["agentlightning.run"]}
    request = agl.EnqueueRolloutRequest(input="x", rollout_id=metadata["run"] + "-1", metadata=metadata)
    await client.enqueue_many_rollouts([request])
    await client.close()
asyncio.run(main())
sys.exit(3)
"""
    )
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    store = f"+agentlightning.store={server.endpoint}"
    for named in ([], ["+agentlightning.run=colours"]):
        code, output = await of_the_command("--config-name", "mine", store, *named, "algorithm.adv_estimator=grpo")
        assert code == 3, output
        *options, default, path = output.splitlines()[:4]
        rest = output.splitlines()[4:]
        # Where an option stands, Hydra reads no override before it.
        assert options == ["--config-name", "mine"]
        assert default == "actor_rollout_ref.rollout.agent.default_agent_loop=agentlightning"
        assert path == f"actor_rollout_ref.rollout.agent.agent_loop_config_path={AGENT_LOOPS}"
        assert rest[-2 - len(named) :] == [store, *named, "algorithm.adv_estimator=grpo"]
    mine, others = await server.query_rollouts(sort_by="rollout_id")
    assert (mine.rollout_id, mine.status, others.status) == ("colours-1", "cancelled", "cancelled")
    assert others.rollout_id.startswith("verl-")
    await server.stop()


async def test_the_command_wants_a_store() -> None:
    code, output = await of_the_command("algorithm.adv_estimator=grpo")
    assert code == 1
    assert "+agentlightning.store=HOST:PORT" in output

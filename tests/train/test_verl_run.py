"""`VERL` runs verl's command with a config and tasks that lead it to this store. A stand-in is run as that command."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import TASKS

import agentlightning as agl

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


async def test_without_tasks_there_is_nothing_to_run(tmp_path: Path) -> None:
    algorithm = algorithm_of(agl.InMemoryLightningStore(), tmp_path)
    for tasks in (None, []):
        with pytest.raises(ValueError, match=r"train_dataset .* or data\.train_files"):
            await algorithm.run(tasks)
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


def test_the_command_runs_verls_with_our_agent_loop_and_wants_a_store(tmp_path: Path) -> None:
    (tmp_path / "site" / "verl" / "trainer" / "main_ppo.py").write_text("import sys; print(*sys.argv[1:], sep='\\n')")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "agentlightning.verl", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    given = "+agentlightning.store=host:4747", "algorithm.adv_estimator=grpo"
    default, path, *rest = run(*given).stdout.splitlines()
    assert default == "actor_rollout_ref.rollout.agent.default_agent_loop=agentlightning"
    assert Path(path.removeprefix("actor_rollout_ref.rollout.agent.agent_loop_config_path=")).is_file()
    assert tuple(rest) == given

    refused = run("algorithm.adv_estimator=grpo")
    assert refused.returncode == 1
    assert "+agentlightning.store=HOST:PORT" in refused.stderr

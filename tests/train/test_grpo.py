"""A model learns from rollouts, through the real gateway, runners and store."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TASKS, load_tiny_model
from toy import CONFIG, SHORT, answer_colour, ask, trainer_of

import agentlightning as agl
from agentlightning.adapter import LlmProxyTraceToTriplet
from agentlightning.algorithm.grpo import GRPO, GRPOConfig, read_history
from agentlightning.types import CustomResource, ProxyLLM

sys.path.insert(0, str(Path(__file__).parent.parent / "framework"))
from openai_server import OpenAIServer

READY = "agentlightning store listening on "


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A store server in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "agentlightning.store_grpc",
        "--port",
        "0",
        "--store",
        f"sqlite:///{tmp_path}/s.db",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(READY)
    yield line.removeprefix(READY).split()[0]
    process.terminate()
    process.wait(10)
    process.stdout.close()


def test_a_model_learns_a_task(tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore()
    algorithm = GRPO(load_tiny_model, CONFIG, run="toy", folder=tmp_path)
    trainer_of(algorithm, store, strategy="shm").fit(answer_colour, TASKS, val_dataset=TASKS)

    history = algorithm.history
    assert [step.version for step in history] == list(range(CONFIG.steps + 1))
    first, last = history[1], history[-1]
    assert first.reward is not None
    assert last.reward is not None
    assert first.reward < 0.3
    assert last.reward > 0.8
    assert (history[0].validation or 0.0) < 1.0
    assert last.validation == 1.0
    assert [step.version for step in history if step.validation is not None] == [0, 4, 8, 12, 16]
    assert all(step.lost == step.stale_calls == 0 and step.drift < 1e-9 for step in history)
    asyncio.run(check_what_the_store_has(store, algorithm))


async def check_what_the_store_has(store: agl.LightningStore, algorithm: GRPO) -> None:
    assert await read_history(store, "toy") == algorithm.history
    latest = await store.get_latest_resources()
    assert latest is not None
    assert isinstance(latest.resources["main_llm"], ProxyLLM)
    assert isinstance(latest.resources["training_step"], CustomResource)
    (rollout,) = await store.query_rollouts(rollout_id_contains="toy-step-000007-001-003")
    (triplet,) = LlmProxyTraceToTriplet().adapt(await store.query_spans(rollout.rollout_id))
    assert triplet.metadata["response"]["model_version"] == "7"
    assert len(triplet.response["token_ids"]) == len(triplet.response["logprobs"]) == 1


def test_the_trained_policy_can_be_loaded(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, group_size=2, validate_every=0, dtype="float32")
    algorithm = GRPO(load_tiny_model, config, run="toy", folder=tmp_path)
    trainer_of(algorithm, agl.InMemoryLightningStore(), strategy="shm").fit(answer_colour, TASKS)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "toy" / "policy")
    assert AutoTokenizer.from_pretrained(tmp_path / "toy" / "policy").eos_token_id == model.config.eos_token_id


def test_calls_of_a_judge_are_not_trained_on(tmp_path: Path) -> None:
    # Rewards that differ in every group, so that all calls are computed.
    rewards = itertools.cycle([0.0, 1.0])

    @agl.rollout
    async def agent(task: dict[str, str], llm: agl.LLM) -> float:
        assert await ask(llm, task["colour"], model="judge") == f"echo: {task['colour']}"
        await ask(llm, task["colour"])
        return next(rewards)

    config = replace(CONFIG, steps=1, tasks_per_step=1, group_size=2, validate_every=0)
    store = agl.InMemoryLightningStore()
    with OpenAIServer() as server:
        # Its token ids are those of a vocabulary of 32,000.
        entry = {"model_name": "judge", "litellm_params": {"model": "hosted_vllm/tiny", "api_base": server.base_url}}
        algorithm = GRPO(load_tiny_model, config, run="toy", folder=tmp_path)
        trainer_of(algorithm, store, strategy="shm", llm_proxy={"model_list": [entry]}).fit(agent, TASKS[:1])
    assert algorithm.history[-1].response_tokens == 1.0
    for rollout in asyncio.run(_all(store)):
        assert len(LlmProxyTraceToTriplet().adapt(asyncio.run(_spans(store, rollout)))) == 2


async def _all(store: agl.LightningStore) -> list[agl.Rollout]:
    return list(await store.query_rollouts())


async def _spans(store: agl.LightningStore, rollout: agl.Rollout) -> list[agl.Span]:
    return list(await store.query_spans(rollout.rollout_id))


def lines_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def start(address: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("toy.py"), address, folder],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "AGL_SERVER_PORT": "0"},
        start_new_session=True,
    )


def test_a_killed_training_goes_on_as_if_nothing_had_happened(server: str, tmp_path: Path) -> None:
    undisturbed = GRPO(load_tiny_model, SHORT, run="toy", folder=tmp_path / "other")
    trainer_of(undisturbed, agl.InMemoryLightningStore(), strategy="shm").fit(answer_colour, TASKS, val_dataset=TASKS)
    expected = {step.version: step for step in undisturbed.history}

    killed = start(server, tmp_path)
    for line in lines_of(killed):
        if line["version"] == 3:
            break
    # In the middle of the next step, with the runner.
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert killed.stdout is not None
    killed.stdout.close()

    again = start(server, tmp_path)
    curve = list(lines_of(again))
    assert again.wait(60) == 0
    assert again.stdout is not None
    again.stdout.close()
    assert min(line["version"] for line in curve) >= 3
    assert curve[-1]["version"] == SHORT.steps
    for line in curve:
        step = expected[line["version"]]
        assert line["reward"] == step.reward
        assert line["loss"] == pytest.approx(step.loss, abs=1e-6)
    validations = {line["version"]: line["validation"] for line in curve if line["validation"] is not None}
    assert validations == {version: expected[version].validation for version in (4, 8)}
    history = asyncio.run(read_history(agl.LightningStoreClient(server), "toy"))
    assert [(step.version, step.reward) for step in history] == [
        (step.version, step.reward) for step in undisturbed.history
    ]


@agl.rollout
async def silent(task: Any, llm: agl.LLM) -> float:
    return 1.0


@agl.rollout
async def broken(task: Any, llm: agl.LLM) -> float:
    raise LookupError("no such colour")


@agl.rollout
async def without_reward(task: dict[str, str], llm: agl.LLM) -> None:
    await answer_colour(task, llm=llm)


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (silent, r"no model call with token ids: the agent must call the model at the endpoint of its `llm` \(4x\)"),
        (broken, r"failed: .*no such colour \(4x\)"),
        (without_reward, r"no reward: the agent neither returned one nor called emit_reward \(4x\)"),
    ],
    ids=["no model call", "failure", "no reward"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_step_that_teaches_nothing_ends_the_training_with_the_reason(agent: Any, why: str, tmp_path: Path) -> None:
    config = replace(CONFIG, group_size=2, validate_every=0)
    algorithm = GRPO(load_tiny_model, config, folder=tmp_path)
    with pytest.raises(RuntimeError, match=why):
        trainer_of(algorithm, agl.InMemoryLightningStore(), strategy="shm").fit(agent, TASKS)


def test_a_training_needs_tasks(tmp_path: Path) -> None:
    algorithm = GRPO(load_tiny_model, CONFIG, folder=tmp_path)
    with pytest.raises(ValueError, match="train_dataset"):
        trainer_of(algorithm, agl.InMemoryLightningStore(), strategy="shm").fit(answer_colour, [])


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"group_size": 1}, "group_size must be at least 2, not 1"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"clip_low": 1.5}, "clip_low must be above 0 and at most 1"),
        ({"aggregation": "mean"}, "aggregation must be token or rollout"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        GRPOConfig(**setting)

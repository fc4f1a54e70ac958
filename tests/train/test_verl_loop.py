"""verl's own agent loop worker gets its samples from runners of this store, through our agent loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tiny import TASKS
from verl_side import VerlSide, runner_of

import agentlightning as agl
from agentlightning.adapter import LlmProxyTraceToTriplet
from agentlightning.algorithm.verl.agent_loop import _worker_of

USER, ASSISTANT, END = 3, 4, 1
RED, GREEN, STOP, GO = 5, 6, 7, 8
"""The tokens of the toy model; see `tiny.py`."""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[agl.LightningStoreServer]:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop()


def script(prompt: str, sampling_params: Mapping[str, Any]) -> str:
    """Says `stop` to red and `go` to green, twice if it may choose."""
    word = "go" if "green" in prompt.rpartition("<user>")[2] else "stop"
    return f"{word} <end>" if sampling_params["temperature"] == 0 else f"{word} {word} <end>"


async def ask(llm: agl.LLM, *turns: str, **parameters: Any) -> str:
    """Asks the model; the turns are those of user and assistant by turns."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        request = {"model": llm.model, "messages": messages, **parameters}
        answer = await client.post(f"{llm.endpoint}/chat/completions", json=request)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


@agl.rollout
async def answer_colour(task: dict[str, str], llm: agl.LLM) -> float:
    answer = await ask(llm, task["colour"])
    return float(answer.startswith(task["answer"]))


async def test_a_sample_is_what_the_store_recorded_of_its_rollout(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    side = VerlSide(tmp_path, server.endpoint, script)
    async with runner_of(answer_colour, server.endpoint):
        batch = await side.generate([*TASKS, {"colour": "red", "answer": "go"}])

    assert batch.batch["prompts"].tolist() == [
        [0, 0, 0, 0, USER, colour, END, ASSISTANT] for colour in (RED, GREEN, RED)
    ]
    assert batch.batch["responses"][:, :4].tolist() == [[word, word, END, 0] for word in (STOP, GO, STOP)]
    assert batch.batch["response_mask"].tolist() == [[1] * 3 + [0] * 9] * 3
    assert batch.batch["rollout_log_probs"][:, :4].tolist() == [[-1 / 8, -2 / 8, -3 / 8, 0]] * 3
    assert batch.batch["rm_scores"].tolist() == [[0, 0, reward] + [0] * 9 for reward in (1, 1, 0)]
    assert batch.non_tensor_batch["min_global_steps"].tolist() == [7] * 3
    assert batch.non_tensor_batch["__num_turns__"].tolist() == [2] * 3

    rollouts = await server.query_rollouts()
    assert [(each.mode, each.input["colour"]) for each in rollouts] == [("train", c) for c in ("red", "green", "red")]
    for rollout in rollouts:
        (triplet,) = LlmProxyTraceToTriplet().adapt(await server.query_spans(rollout.rollout_id))
        assert triplet.response["token_ids"][2:] == [END]
        assert triplet.metadata["response"]["model_version"] == "7"


async def test_samples_of_one_task_are_rollouts_of_their_own(server: agl.LightningStoreServer, tmp_path: Path) -> None:
    side = VerlSide(tmp_path, server.endpoint, script)
    async with runner_of(answer_colour, server.endpoint):
        batch = await side.generate(TASKS[:1], n=3)
    assert len(batch) == 3
    rollouts = await server.query_rollouts()
    assert [each.input for each in rollouts] == [TASKS[0]] * 3
    # Calls of one rollout go to one server of verl's.
    assert {request_id for request_id, _ in side.engine.asked} == {each.rollout_id for each in rollouts}


async def test_a_validation_samples_as_verl_says_and_its_rollouts_say_what_they_are(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    @agl.rollout
    async def agent(task: dict[str, str], llm: agl.LLM) -> float:
        seen.append(llm.sampling_parameters)
        return float(await ask(llm, task["colour"]) == task["answer"])

    side = VerlSide(tmp_path, server.endpoint, script)
    async with runner_of(agent, server.endpoint):
        judged = await side.generate(TASKS, "val")
        await side.generate(TASKS, "train")
    assert judged.batch["responses"][:, :3].tolist() == [[STOP, END, 0], [GO, END, 0]]
    assert [each.mode for each in await server.query_rollouts()] == ["val"] * 2 + ["train"] * 2
    assert seen == [{"temperature": 0.0, "top_p": 1.0}] * 2 + [{"temperature": 1.0, "top_p": 1.0}] * 2
    for _, asked in side.engine.asked:
        assert asked["logprobs"] is True
        assert (asked["top_k"], asked["repetition_penalty"], asked["max_tokens"]) == (-1, 1.0, 12)


async def test_turns_that_go_on_from_each_other_are_one_sample_in_which_the_environment_does_not_train(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        first = await ask(llm, task)
        await ask(llm, task, first, "green", max_tokens=1)
        return 0.5

    side = VerlSide(tmp_path, server.endpoint, script)
    async with runner_of(agent, server.endpoint):
        batch = await side.generate(["red"])
    environment = [USER, GREEN, END, ASSISTANT]
    assert batch.batch["responses"].tolist() == [[STOP, STOP, END, *environment, GO] + [0] * 4]
    assert batch.batch["response_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 1] + [0] * 4]
    assert batch.batch["rollout_log_probs"].tolist() == [[-1 / 8, -2 / 8, -3 / 8, 0, 0, 0, 0, -1 / 8] + [0] * 4]
    assert batch.batch["rm_scores"][0, 7] == 0.5
    assert batch.non_tensor_batch["__num_turns__"].tolist() == [4]


@pytest.mark.parametrize("use_v1", [True, False])
async def test_turns_that_do_not_are_a_sample_each_or_the_longest_is_where_verl_takes_one(
    use_v1: bool, server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        await ask(llm, task, max_tokens=1)
        await ask(llm, "green")
        return 1.0

    side = VerlSide(tmp_path, server.endpoint, script, trainer={"use_v1": use_v1})
    (row,) = side.rows(["red"])
    async with runner_of(agent, server.endpoint):
        found = await side.loop().run({"temperature": 1.0, "top_p": 1.0, "logprobs": False}, **row)
    if use_v1:
        assert [output.response_ids for output in found] == [[STOP], [GO, GO, END]]
        # What the V1 trainer makes of them.
        assert [output.as_dict()["rm_scores"].tolist() for output in found] == [[1], [0, 0, 1]]
        assert all(output.extra_fields["reward_extra_info"] == {} for output in found)
    else:
        assert found.response_ids == [GO, GO, END]
        # verl has not asked for them.
        assert found.response_logprobs is None


async def test_a_rollout_that_fails_counts_and_does_not_train(server: agl.LightningStoreServer, tmp_path: Path) -> None:
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float | None:
        if task == "red":
            raise RuntimeError("the agent never asks")
        await ask(llm, task)
        if task == "green":
            raise RuntimeError("a tool is broken")
        return None

    side = VerlSide(tmp_path, server.endpoint, script, {"failed_reward": -1.0})
    async with runner_of(agent, server.endpoint):
        batch = await side.generate(["red", "green", "red green"])
    assert batch.batch["response_mask"].sum() == 0
    assert batch.batch["rm_scores"].sum(-1).tolist() == [-1.0] * 3
    assert batch.batch["prompts"][0].tolist() == [0, 0, 0, 0, USER, RED, END, ASSISTANT]
    assert batch.batch["responses"][:, :3].tolist() == [[END, 0, 0], [GO, GO, END], [GO, GO, END]]
    # verl computes with the steps of all samples.
    assert batch.non_tensor_batch["max_global_steps"].tolist() == [0, 7, 7]


async def test_a_rollout_that_takes_too_long_is_left_only_when_the_engine_has_nothing_to_do_for_it(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    side = VerlSide(tmp_path, server.endpoint, script, {"rollout": {"timeout_seconds": 0.2}})
    side.engine.hold = asyncio.Event()
    over = asyncio.Event()

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        asking = asyncio.create_task(ask(llm, task))
        await over.wait()
        await asyncio.gather(asking, return_exceptions=True)
        return 1.0

    async with runner_of(agent, server.endpoint):
        working = asyncio.create_task(side.generate(["red"]))
        await side.engine.begun.wait()
        ((rollout_id, _),) = side.engine.asked
        await server.wait_for_rollouts(rollout_ids=[rollout_id])
        assert not (await asyncio.wait({working}, timeout=0.1))[0]
        side.engine.hold.set()
        batch = await working
        over.set()
    assert batch.batch["response_mask"].sum() == 0
    assert batch.batch["rm_scores"].sum() == 0
    rollout = await server.get_rollout_by_id(rollout_id)
    assert rollout is not None
    assert rollout.status == "failed"


async def test_a_temperature_that_verl_does_not_compute_with_is_warned_of_and_greedy_validation_is_not(
    server: agl.LightningStoreServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        await ask(llm, task, **({"temperature": 0.5} if task == "red" else {}))
        return 1.0

    side = VerlSide(tmp_path, server.endpoint, script)
    async with runner_of(agent, server.endpoint):
        await side.generate(["red", "green"])
        await side.generate(["red", "green"], "val")
    warnings = [record.getMessage() for record in caplog.records if "temperature" in record.getMessage()]
    red = [each.rollout_id for each in await server.query_rollouts() if (each.mode, each.input) == ("train", "red")]
    (warning,) = warnings
    assert f"rollout {red[0]}: calls asked for temperature 0.5, and verl computes probabilities for 1" in warning


async def test_what_verl_does_not_wait_for_any_more_is_cancelled(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    side = VerlSide(tmp_path, server.endpoint, script)
    (row,) = side.rows(["red"])
    waiting = asyncio.create_task(side.loop().run({"temperature": 1.0, "top_p": 1.0}, **row))
    while not await server.query_rollouts():  # noqa: ASYNC110  enqueued by an agent loop
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert [each.status for each in await server.query_rollouts()] == ["cancelled"]


async def test_resources_that_could_not_be_published_are_tried_again_with_the_next_rollout(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        return float(await ask(llm, task) == "stop stop")

    side = VerlSide(tmp_path, server.endpoint, script, {"resources_id": "first"})
    (row,) = side.rows(["red"])
    sampling = {"temperature": 1.0, "top_p": 1.0}
    # Other rollouts are under way in the worker all the time.
    worker = _worker_of(side.loop())
    async with worker.rollouts.using(worker.open):
        with pytest.raises(ValueError, match="no resources 'first'"):
            await side.loop().run(sampling, **row)
        await server.update_resources("first", {"prompt": agl.PromptTemplate(template="", engine="f-string")})
        async with runner_of(agent, server.endpoint):
            output = await side.loop().run(sampling, **row)
    assert output.reward_score == 1.0


async def test_a_gateway_that_others_may_reach_wants_the_key_of_the_attempt(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    statuses: list[int] = []

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        async with httpx.AsyncClient(verify=False, timeout=60) as client:
            request = {"model": llm.model, "messages": [{"role": "user", "content": task}]}
            for key in ("wrong", llm.api_key):
                headers = {"authorization": f"Bearer {key}"}
                answer = await client.post(f"{llm.endpoint}/chat/completions", json=request, headers=headers)
                statuses.append(answer.status_code)
        return 1.0

    side = VerlSide(tmp_path, server.endpoint, script, {"insecure": True})
    async with runner_of(agent, server.endpoint):
        await side.generate(["red"])
    assert statuses == [401, 200]


async def test_a_row_of_somebody_elses_file_is_a_task_as_it_stands(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    side = VerlSide(tmp_path, server.endpoint, script)
    (row,) = side.rows(["red"], "val")
    foreign = {key: value for key, value in row.items() if not key.startswith("agentlightning_")}
    foreign["extra_info"] = {"index": 3, "split": "test"}

    @agl.rollout
    async def agent(task: dict[str, Any], llm: agl.LLM) -> float:
        return float(await ask(llm, task["prompt"][0]["content"]) == "stop stop")

    async with runner_of(agent, server.endpoint):
        output = await side.loop().run({"temperature": 1.0, "top_p": 1.0}, **foreign)
    assert output.reward_score == 1.0
    (rollout,) = await server.query_rollouts()
    assert rollout.mode == "val"
    assert set(rollout.input) == {"prompt", "raw_prompt", "data_source", "reward_model", "extra_info"}


async def test_initial_resources_reach_the_agent_beside_the_model(
    server: agl.LightningStoreServer, tmp_path: Path
) -> None:
    prompt = agl.PromptTemplate(template="green", engine="f-string")
    await server.update_resources("first", {"prompt": prompt})

    @agl.rollout
    async def agent(task: str, llm: agl.LLM, prompt_template: agl.PromptTemplate) -> float:
        return float(await ask(llm, prompt_template.format()) == "go go")

    side = VerlSide(tmp_path, server.endpoint, script, {"resources_id": "first"})
    async with runner_of(agent, server.endpoint):
        batch = await side.generate(["red"])
    assert batch.batch["rm_scores"].sum() == 1

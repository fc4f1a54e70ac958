"""What verl is given: its config, the tasks as rows, trajectories within its lengths, answers of its engine."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import load_tiny_tokenizer
from verl_engine import ScriptedEngine

import agentlightning as agl
from agentlightning.algorithm.policies.calls import ModelCall
from agentlightning.algorithm.policies.generation import Generation
from agentlightning.algorithm.policies.requests import ServedModel
from agentlightning.algorithm.policies.server import PolicyServer
from agentlightning.algorithm.verl.config import connected, with_data, write_config
from agentlightning.algorithm.verl.leftovers import cancel, cancel_rest
from agentlightning.algorithm.verl.rows import metadata_of, mode_of, task_of, write_rows
from agentlightning.algorithm.verl.sampler import EngineSampler
from agentlightning.algorithm.verl.settings import VERLSettings
from agentlightning.algorithm.verl.sharing import Shared
from agentlightning.algorithm.verl.trajectories import Trajectory, longest, trajectories
from agentlightning.types import RolloutConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hydra import compose, initialize_config_dir
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config


def composed(folder: Path, config: dict[str, Any]) -> Any:
    write_config(folder / "verl.yaml", config)
    with initialize_config_dir(str(folder), version_base=None):
        return compose("verl")


def of_the_page() -> dict[str, Any]:
    """Returns the config of the example of the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "verl.md").read_text(encoding="utf-8")
    module: dict[str, Any] = {"__name__": "page"}
    exec(page.partition("```python\n")[2].partition("```")[0], module)
    config: dict[str, Any] = module["CONFIG"]
    return config


USERS = of_the_page()


def test_the_config_is_verls_own_with_what_the_user_sets_and_our_agent_loop(tmp_path: Path) -> None:
    settings = VERLSettings(store="grpc://host:4747", run="run", rollout=RolloutConfig(timeout_seconds=60.0))
    files = tmp_path / "train.parquet", tmp_path / "val.parquet"
    config = composed(tmp_path, with_data(connected(USERS, settings), *files))
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.name, rollout.n, rollout.agent.default_agent_loop) == ("vllm", 8, "agentlightning")
    assert Path(rollout.agent.agent_loop_config_path).is_file()
    assert config.actor_rollout_ref.actor.optim.lr == 1e-06
    assert rollout.prompt_length == config.data.max_prompt_length == 1024
    assert (config.data.train_files, config.data.val_files) == tuple(map(str, files))
    assert config.trainer.val_before_train is True
    assert VERLSettings.model_validate(dict(config.agentlightning)) == settings
    # verl's own opinion.
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def test_without_validation_tasks_verl_does_not_validate(tmp_path: Path) -> None:
    config = composed(tmp_path, with_data(USERS, tmp_path / "train.parquet", None))
    assert (config.trainer.val_before_train, config.trainer.test_freq) == (False, -1)


def test_validation_files_of_the_config_stay_where_no_tasks_are_given(tmp_path: Path) -> None:
    users = {**USERS, "data": {**USERS["data"], "val_files": ["a.parquet", "b.parquet"]}}
    config = composed(tmp_path, with_data(users, tmp_path / "train.parquet", None))
    assert list(config.data.val_files) == ["a.parquet", "b.parquet"]
    assert (config.trainer.val_before_train, config.trainer.test_freq) == (True, 10)
    given = composed(tmp_path, with_data(users, tmp_path / "train.parquet", tmp_path / "val.parquet"))
    assert given.data.val_files == str(tmp_path / "val.parquet")


def test_the_engine_that_trains_is_chosen_as_on_verls_command_line(tmp_path: Path) -> None:
    assert composed(tmp_path, USERS).actor_rollout_ref.actor.strategy == "fsdp"
    chosen = composed(tmp_path, {**USERS, "model_engine": "torchtitan"})
    assert chosen.actor_rollout_ref.actor.strategy == "torchtitan"


@pytest.mark.parametrize("task", ["a text", "", {"a": [1, 2.5, None, {"b": "ü"}]}, 10**30, ["x"], None])
def test_tasks_come_back_from_rows_as_they_were(task: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_rows(tmp_path / "rows.parquet", [{"other": 1}, task], "val")
    row = pq.read_table(tmp_path / "rows.parquet").to_pylist()[1]
    assert task_of(row) == task
    assert mode_of(row) == "val"
    assert metadata_of({**row, "index": 1, "global_steps": 5, "uid": "u"}) == {"index": 1, "global_steps": 5}


def call(prompt: list[int], response: list[int]) -> ModelCall:
    return ModelCall(prompt, response, [-0.5] * len(response), 1.0)


def test_a_response_that_is_too_long_loses_its_end() -> None:
    (made,), left_out = trajectories([call([1, 2], [3, 4, 5])], most_prompt=2, most_response=2, trains=True)
    assert made == Trajectory([1, 2], [3, 4], [1, 1], [-0.5, -0.5])
    assert left_out == 1


def test_a_prompt_that_is_too_long_loses_its_beginning_and_does_not_train() -> None:
    (made,), left_out = trajectories([call([1, 2, 3], [4])], most_prompt=2, most_response=2, trains=True)
    assert made == Trajectory([2, 3], [4], [0], [-0.5])
    assert left_out == 1


def test_the_last_trajectory_trains_if_any_does() -> None:
    made, _ = trajectories([call([1], [2]), call([7, 8, 9], [4])], most_prompt=2, most_response=2, trains=True)
    assert [each.response_ids for each in made] == [[4], [2]]
    assert longest(made).response_ids == [2]


async def test_an_answer_ends_with_the_text_that_it_is_to_end_with_and_others_get_none() -> None:
    tokenizer = load_tiny_tokenizer()
    engine = ScriptedEngine(tokenizer, lambda prompt, _: "stop go stop <end>")
    loop = asyncio.get_running_loop()
    sampler = EngineSampler(engine.generate, tokenizer, template_options={}, max_context_tokens=64, loop=loop)

    async def answer(rollout_id: str, most_tokens: int = 9, stops: Any = None) -> Generation:
        done = asyncio.Event()
        made = Generation(
            [3], 1.0, 1.0, most_tokens, random.Random(), rollout_id=rollout_id, stops=stops, changed=done.set
        )
        sampler.submit(made)
        await done.wait()
        return made

    async with sampler.conversation("ro", {"top_k": 4}) as conversation:
        whole, short, stopped, last = await asyncio.gather(
            answer("ro"),
            answer("ro", 2),
            answer("ro", stops=lambda tokens: tokens[-1] == 8),
            answer("ro", 2, stops=lambda tokens: tokens[-1] == 8),
        )
        assert (whole.tokens, whole.finish_reason, whole.version) == ([7, 8, 7, 1], "stop", "7")
        assert (short.tokens, short.finish_reason) == ([7, 8], "length")
        assert (stopped.tokens, stopped.logprobs, stopped.finish_reason) == ([7, 8], [-1 / 8, -2 / 8], "stop")
        assert (last.tokens, last.finish_reason) == ([7, 8], "stop")
        assert conversation.weights == [7] * 8
    late = await answer("ro")
    assert "rollout ro is over" in str(late.error)
    assert len(engine.asked) == 4


@pytest.mark.parametrize("streamed", [False, True])
async def test_answers_whole_and_streamed_say_which_weights_made_them(streamed: bool) -> None:
    tokenizer = load_tiny_tokenizer()
    engine = ScriptedEngine(tokenizer, lambda prompt, _: "stop <end>")
    loop = asyncio.get_running_loop()
    sampler = EngineSampler(engine.generate, tokenizer, template_options={}, max_context_tokens=64, loop=loop)
    server = PolicyServer(sampler, {"policy": ServedModel(1.0, 5)})
    await server.start()
    request = {"model": "policy", "stream": streamed, "messages": [{"role": "user", "content": "red"}]}
    versions = []
    async with (
        httpx.AsyncClient(verify=False, timeout=60, headers={"agentlightning-rollout-id": "ro"}) as client,
        sampler.conversation("ro", {}),
    ):
        for engine.step in (8, 9):
            engine.begun, engine.hold = asyncio.Event(), asyncio.Event()
            asking = asyncio.create_task(client.post(f"{server.url}/chat/completions", json=request))
            await engine.begun.wait()
            # A head that did not wait for the weights would be on its way.
            await asyncio.sleep(0.05)
            engine.hold.set()
            answer = await asking
            versions.append(answer.headers.get("agentlightning-model-version"))
            assert "stop" in answer.text
    await server.stop()
    assert versions == ["8", "9"]


async def test_what_verl_leaves_of_a_run_is_cancelled_and_nothing_of_runs_whose_names_have_its_name() -> None:
    store = agl.InMemoryLightningStore()
    runs = ("toy", "my-toy", "toy-2", "toy")
    requests = [
        agl.EnqueueRolloutRequest(input=None, rollout_id=f"{run}-{number}", metadata={"run": run})
        for number, run in enumerate(runs)
    ]
    await store.enqueue_many_rollouts(requests)
    await store.update_rollout("toy-3", status="succeeded")
    await cancel_rest(store, "toy")
    statuses = {each.rollout_id: each.status for each in await store.query_rollouts()}
    assert statuses == {"toy-0": "cancelled", "my-toy-1": "queuing", "toy-2-2": "queuing", "toy-3": "succeeded"}
    await store.close()


async def test_what_hinders_cancelling_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    store = agl.InMemoryLightningStore()
    await cancel(store, "of nobody")
    await store.close()
    unreachable = agl.LightningStoreClient("127.0.0.1:1", connection_timeout=0.1)
    await cancel_rest(unreachable, "toy")
    await unreachable.close()
    assert [
        record.getMessage().partition(":")[0] for record in caplog.records if record.name.endswith("leftovers")
    ] == [
        "rollout of nobody is not cancelled",
        "toy",
    ]


async def test_what_is_shared_is_open_from_the_first_user_to_the_last() -> None:
    states: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        states.append("open")
        yield "value"
        states.append("closed")

    shared: Shared[str] = Shared()
    async with shared.using(opened) as first:
        async with shared.using(opened) as second:
            assert first == second == "value"
        assert states == ["open"]
    assert states == ["open", "closed"]
    async with shared.using(opened):
        assert states == ["open", "closed", "open"]

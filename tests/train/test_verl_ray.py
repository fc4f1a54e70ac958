"""In Ray, the workers of verl's V1 trainer run our agent loop and put its samples where the trainer takes them from.

Ray imports verl in half a dozen processes, so that this runs only if `AGL_TEST_RAY` is set.
"""

from __future__ import annotations

import asyncio
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_verl_loop import END, GO, STOP, ask, script
from verl_side import VerlSide, collate_fn, runner_of

import agentlightning as agl

pytestmark = [
    pytest.mark.skipif(not os.environ.get("AGL_TEST_RAY"), reason="AGL_TEST_RAY is not set"),
    pytest.mark.filterwarnings("ignore"),  # Ray's and TransferQueue's
    pytest.mark.timeout(600),
]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    import ray

    ray.init(num_cpus=8, include_dashboard=False)
    yield ray
    ray.shutdown()


@agl.rollout
async def agent(task: str, llm: agl.LLM) -> float:
    first = await ask(llm, task)
    await ask(llm, task, first, "green", max_tokens=1)
    if task == "green":
        await ask(llm, "red")
    if task == "red green":
        raise RuntimeError("a tool is broken")
    return 0.5


async def test_samples_of_rollouts_come_to_the_v1_trainer(ray: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transfer_queue as tq
        from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
        from verl.utils import tensordict_utils

    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    queue = {"enable": True, "backend": {"SimpleStorage": {"num_data_storage_units": 1}}}
    side = VerlSide(tmp_path, server.endpoint, script, transfer_queue=queue)
    side.config.actor_rollout_ref.rollout.update({"n": 2})
    side.config.actor_rollout_ref.rollout.agent.num_workers = 2
    tq.init(side.config.transfer_queue)
    manager = await asyncio.to_thread(AgentLoopManagerTQ.create, config=side.config, llm_client=side.engine)

    columns = collate_fn(side.rows(["red", "green", "red green"]))
    uids = [uuid.uuid4().hex for _ in range(3)]
    batch = tensordict_utils.get_tensordict({**columns, "uid": np.array(uids, dtype=object)})
    tensordict_utils.assign_non_tensor_data(batch, "global_steps", 7)
    tq.kv_batch_put(keys=uids, partition_id="train", tags=[{"status": "pending"}] * 3)
    async with runner_of(agent, server.endpoint):
        await asyncio.to_thread(manager.generate_sequences, batch)
        while len(kept := finished(tq.kv_list(partition_id="train")["train"], uids)) < 3:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.1)

    keys = [
        f"{uids[task]}_{sample}_{part}"
        for task, parts in ((0, 1), (1, 2), (2, 1))
        for sample in range(2)
        for part in range(parts)
    ]
    assert set(kept) == {"finished"}
    found = tq.kv_batch_get(keys=keys, partition_id="train")
    red, green, second = [STOP, STOP, END], [GO, GO, END], [3, 6, END, 4, GO]
    assert [each.tolist() for each in found["responses"]] == [
        *[[*red, *second]] * 2,
        *[[*green, *second], red] * 2,
        *[[*green, *second]] * 2,
    ]
    masks = [each.tolist() for each in found["response_mask"]]
    assert masks == [*[[1, 1, 1, 0, 0, 0, 0, 1]] * 3, [1] * 3, [1, 1, 1, 0, 0, 0, 0, 1], [1] * 3, *[[0] * 8] * 2]
    assert [each.sum().item() for each in found["rm_scores"]] == [0.5] * 6 + [0.0] * 2
    assert len(await server.query_rollouts()) == 6
    tq.close()
    await server.stop()


def finished(kept: Mapping[str, Any], uids: list[str]) -> list[str]:
    """Returns what has become of the prompts that the workers are done with."""
    return [kept[uid]["status"] for uid in uids if kept[uid]["status"] in ("finished", "failure")]

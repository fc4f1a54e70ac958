"""Stands in for `python -m verl.trainer.main_ppo`: runs each task once, or does what its config says in `stand_in`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tiny import load_tiny_tokenizer
from verl_engine import ScriptedEngine

import agentlightning as agl
from agentlightning.algorithm.verl.rollouts import serving_rollouts
from agentlightning.algorithm.verl.rows import mode_of, task_of
from agentlightning.algorithm.verl.sampler import EngineSampler
from agentlightning.algorithm.verl.settings import VERLSettings


async def main(folder: Path, name: str) -> None:
    config: dict[str, Any] = json.loads((folder / f"{name}.yaml").read_text())
    (folder / "pid").write_text(str(os.getpid()))
    if config.get("stand_in") == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    settings = VERLSettings.model_validate(config["agentlightning"])
    tokenizer = load_tiny_tokenizer()
    engine = ScriptedEngine(tokenizer, lambda prompt, _: "stop <end>" if "red" in prompt else "go <end>")
    sampler = EngineSampler(
        engine.generate, tokenizer, template_options={}, max_context_tokens=64, loop=asyncio.get_running_loop()
    )
    files = dict.fromkeys((config["data"]["train_files"], config["data"]["val_files"]))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    async with serving_rollouts(settings, sampler, 8) as rollouts:
        runs = [
            asyncio.ensure_future(rollouts.run(task_of(row), mode_of(row), {"temperature": 1.0}, {})) for row in rows
        ]
        if config.get("stand_in") == "crash":
            store = agl.LightningStoreClient(settings.store)
            while len(await store.query_rollouts(rollout_id_contains=settings.run)) < len(rows):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            os._exit(3)
        finished = await asyncio.gather(*runs)
        if config.get("stand_in") == "stubborn":
            await asyncio.sleep(60)
    (folder / "rewards.json").write_text(json.dumps([each.reward for each in finished]))


if __name__ == "__main__":
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    asyncio.run(main(Path(arguments["--config-path"]), arguments["--config-name"]))

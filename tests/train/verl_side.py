"""verl's side of a training: its own config, dataset and agent loop worker, with a scripted engine."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tiny import load_tiny_model
from verl_engine import Script, ScriptedEngine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of engines that are not installed, and of what its libraries deprecate
    from hydra import compose, initialize_config_dir
    from verl import DataProto
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, DictConfigWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    from agentlightning.algorithm.verl.agent_loop import StoreAgentLoop
import agentlightning as agl
from agentlightning.algorithm.verl.config import connected, with_data, write_config
from agentlightning.algorithm.verl.rows import write_rows
from agentlightning.algorithm.verl.settings import VERLSettings

WORDS = ("red", "green", "stop", "go")


class VerlSide:
    """A worker of verl's, and the tasks that its trainer would hand to it.

    Args:
        folder: Where to put files.
        address: The store server.
        script: What the engine writes.
        settings: Of the section `agentlightning`, besides.
        **config: Of verl's config.
    """

    def __init__(
        self, folder: Path, address: str, script: Script, settings: Mapping[str, Any] | None = None, **config: Any
    ) -> None:
        model, tokenizer = load_tiny_model(WORDS)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        self.tokenizer = tokenizer
        whole = {
            "actor_rollout_ref": {"model": {"path": str(folder / "model")}, "rollout": {"name": "vllm"}},
            "data": {"max_prompt_length": 8, "max_response_length": 12, "cache_dir": str(folder / "cache")},
            **config,
        }
        self._folder = folder
        whole = connected(whole, VERLSettings(store=address, run="toy", **(settings or {})))
        write_config(folder / "verl.yaml", with_data(whole, folder / "train.parquet", None))
        with initialize_config_dir(str(folder), version_base=None):
            self.config = compose("verl")
        self.engine = ScriptedEngine(tokenizer, script)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.worker = AgentLoopWorker(self.config, self.engine)

    def rows(self, tasks: Sequence[Any], mode: Any = "train") -> list[dict[str, Any]]:
        """Returns tasks as verl's dataset reads them."""
        path = self._folder / f"{mode}.parquet"
        write_rows(path, tasks, mode)
        dataset = RLHFDataset(str(path), self.tokenizer, self.config.data)
        return [dataset[index] for index in range(len(dataset))]

    def loop(self) -> StoreAgentLoop:
        """Returns an agent loop as the worker makes one for each sample."""
        return StoreAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.engine,
            tokenizer=self.tokenizer,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(self.config.data),
        )

    async def generate(self, tasks: Sequence[Any], mode: Any = "train", n: int = 1) -> DataProto:
        """Returns the batch that verl's trainer gets for tasks, each `n` times."""
        batch = DataProto.from_single_dict(collate_fn(self.rows(tasks, mode)))
        batch.meta_info = {"validate": mode == "val", "global_steps": self.engine.step}
        return await self.worker.generate_sequences(batch.repeat(n, interleave=True))


@asynccontextmanager
async def runner_of(agent: agl.LitAgent[Any], address: str) -> AsyncIterator[None]:
    """Has a runner take rollouts from a store server during the block."""
    runner = agl.LitAgentRunner[Any](agl.OtelTracer(), max_concurrency=8)
    event = agl.ThreadingEvent()
    store = agl.LightningStoreClient(address)
    with runner.run_context(agent=agent, store=store):
        work = asyncio.create_task(runner.iter(event=event))
        yield
        event.set()
        await work
    await store.close()

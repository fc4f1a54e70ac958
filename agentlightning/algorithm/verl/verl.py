"""verl as an algorithm of a trainer."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.utils import new_run_name
from agentlightning.algorithm.verl.config import connected, with_data, write_config
from agentlightning.algorithm.verl.leftovers import cancel_rest
from agentlightning.algorithm.verl.reachable import store_address
from agentlightning.algorithm.verl.rows import write_rows
from agentlightning.algorithm.verl.settings import SECTION, VERLSettings
from agentlightning.removed import describe_removed
from agentlightning.store.api import DEFAULT_EXPERIMENT
from agentlightning.store.base import LightningStore
from agentlightning.store.face import StoreFace
from agentlightning.types import Dataset
from agentlightning.utils.extras import expect_package, require_packages
from agentlightning.utils.threads import run_in_thread

logger = logging.getLogger(__name__)

COMMAND: Final = "verl.trainer.main_ppo"
"""verl's command, a module."""
# In which Ray stops what it has started. Strategies give an algorithm 5 s to clean up, and some are for the store.
_STOP_SECONDS: Final = 3.0


class VERL(Algorithm):
    """Trains a language model with verl (https://github.com/verl-project/verl), for training on many GPUs.

    verl samples and trains the model, as its config says. Its agent loop, of which each sample of a batch is a run, is
    ours: it enqueues a rollout and waits for it. The agent runs in the runners of this store, wherever they are, and
    calls verl's engine through a gateway, which records the exact tokens; see docs/verl.md.

    verl runs in a process of its own, and Ray with it. It must be installed, with an engine such as vLLM:
    `pip install 'agentlightning-grpc[verl]' 'verl[vllm]'`.

    Tested with the classes of verl 0.9.1 on a CPU, up to the batch that its trainer gets. Not run so far: a training
    on GPUs.

    Attributes:
        config: What differs from verl's defaults.
        run_name: The name of the run, which begins the ids of its rollouts.
        folder: Where it keeps verl's config and the tasks. Checkpoints are where verl's config puts them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        trainer_cls: Any = None,
        daemon_cls: Any = None,
        *,
        run: str | None = None,
        folder: str | Path = "verl-runs",
    ) -> None:
        """Configures the training.

        Args:
            config: What differs from verl's defaults, as nested dictionaries. A section `agentlightning` sets what
                `VERLSettings` has, such as the limits of a rollout.
            trainer_cls: Not supported: verl's trainer is not subclassed.
            daemon_cls: Not supported: there is no daemon.
            run: The name of the run; a new one unless given. What an earlier run of the name has left unfinished in the
                store is cancelled when this one begins, so that no two runs of one name may go on at once.
            folder: Where the run is to have a folder of its name.

        Raises:
            ImportError: verl, or what the extra `verl` brings, is not installed.
            TypeError: The config is no dictionary.
            ValueError: An argument is not supported, or the section `agentlightning` is none.
        """
        for argument, given in {"trainer_cls=": trainer_cls, "daemon_cls=": daemon_cls}.items():
            if given is not None:
                raise ValueError(describe_removed(f"VERL({argument})"))
        if not isinstance(config, Mapping):
            raise TypeError(f"the config of VERL must be a dictionary, not a {type(config).__name__}")
        expect_packages()
        super().__init__()
        self.config = dict(config)
        self.run_name = run or new_run_name("verl")
        self.folder = Path(folder) / self.run_name
        self._settings("", None, None)

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Trains until verl has ended. What it prints goes where this process prints.

        Args:
            train_dataset: The tasks to learn from. None takes the files that `data.train_files` of the config names,
                and a row of these is a task.
            val_dataset: The tasks to judge by, beside a `train_dataset`. None takes the files that `data.val_files` of
                the config names; without those there is no validation.

        Raises:
            ValueError: There are no tasks to learn from, or a `val_dataset` without a `train_dataset`.
            TypeError: A task is nothing that the store can keep, or verl's processes cannot reach the store.
            RuntimeError: verl has failed.
        """
        store = self.get_store()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = await run_in_thread(self._with_data, train_dataset, val_dataset)
        if self.get_llm_proxy() is not None:
            logger.warning(
                "VERL does not use the llm_proxy of the trainer: each of verl's workers has a gateway of its own; see "
                "gateway_host in the section %r",
                SECTION,
            )
        await cancel_rest(store, self.run_name)
        resources_id = await self._publish(store)
        async with store_address(store) as address:
            path = (self.folder / "verl.yaml").resolve()
            write_config(path, connected(config, self._settings(address, store, resources_id)))
            try:
                await self._train(path, store)
            finally:
                await cancel_rest(store, self.run_name)

    def _settings(self, address: str, store: LightningStore | None, resources_id: str | None) -> VERLSettings:
        ours: dict[str, Any] = {
            "store": address,
            "experiment": store.context.experiment if isinstance(store, StoreFace) else DEFAULT_EXPERIMENT,
            "run": self.run_name,
            "resources_id": resources_id,
        }
        return VERLSettings.model_validate({**self.config.get(SECTION, {}), **ours})

    def _with_data(self, train_dataset: Dataset[Any] | None, val_dataset: Dataset[Any] | None) -> dict[str, Any]:
        if train_dataset is None and self.config.get("data", {}).get("train_files"):
            if val_dataset is not None:
                raise ValueError(
                    "VERL takes a val_dataset only beside a train_dataset: with data.train_files in its config, name "
                    "the tasks to judge by in data.val_files"
                )
            return self.config
        if train_dataset is None or len(train_dataset) == 0:
            raise ValueError(
                "VERL needs a train_dataset with the tasks to learn from, or data.train_files in its config"
            )
        train_file, val_file = self.folder.resolve() / "train.parquet", None
        write_rows(train_file, train_dataset, "train")
        if val_dataset is not None and len(val_dataset):
            val_file = train_file.with_stem("val")
            write_rows(val_file, val_dataset, "val")
        return with_data(self.config, train_file, val_file)

    async def _publish(self, store: LightningStore) -> str | None:
        resources = self.get_initial_resources()
        if not resources:
            return None
        return (await store.update_resources(f"{self.run_name}-initial", resources)).resources_id

    async def _train(self, config: Path, store: LightningStore) -> None:
        """Runs verl's own command; ends it when this is cancelled."""
        arguments = ("-m", COMMAND, "--config-path", str(config.parent), "--config-name", config.stem)
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        try:
            code = await process.wait()
        except BaseException:
            # There is little time, and runners need not wait for verl.
            await asyncio.gather(_stop(process), cancel_rest(store, self.run_name))
            raise
        if code:
            raise RuntimeError(f"verl ended with exit code {code}; what it printed says why. Its config is {config}")


def expect_packages() -> None:
    """Checks that verl, and what the extra `verl` brings, is installed.

    Raises:
        ImportError: It is not; the message says how to install it.
    """
    require_packages("VERL", "verl", "fastapi", "uvicorn", "httpx", "pyarrow")
    # Importing verl takes seconds and nearly a gigabyte, and it is used in another process.
    expect_package("VERL", "verl", "verl")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ends a process: it is asked to, and killed if it takes too long or this is cancelled."""
    try:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

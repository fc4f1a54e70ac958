"""Checkpoints: what a training needs to go on, in files that are whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from agentlightning.algorithm.grpo.learner import Learner
from agentlightning.algorithm.grpo.policy import Policy

_NAME: Final = re.compile(r"step-(\d+)\.pt")


class Checkpoints:
    """The checkpoints of one run, in a folder of its own. The newest ones are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Names the folder; it is made when something is written.

        Args:
            folder: Where they are.
            keep: How many to keep.
        """
        self._folder = folder
        self._keep = keep

    def save(self, policy: Policy, learner: Learner) -> None:
        """Writes a checkpoint of the policy's version. A process that is killed meanwhile leaves the older ones."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{policy.version:06}.pt"
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            torch.save({"version": policy.version, "weights": policy.state(), "optimizer": learner.state()}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        for _, old in sorted(self._found())[: -self._keep]:
            old.unlink()

    def restore(self, policy: Policy, learner: Learner) -> bool:
        """Brings policy and learner to where the newest checkpoint is; returns whether there is one.

        Raises:
            ValueError: It is one of another model.
        """
        newest = max(self._found(), default=None)
        if newest is None:
            return False
        state: dict[str, Any] = torch.load(newest[1], map_location=policy.device, weights_only=True)
        policy.load_state(state["weights"])
        learner.load_state(state["optimizer"])
        policy.version = state["version"]
        return True

    def _found(self) -> Iterator[tuple[int, Path]]:
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if match := _NAME.fullmatch(path.name):
                yield int(match[1]), path

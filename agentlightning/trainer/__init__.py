"""The trainer: an algorithm, runners, a store and a strategy, put together."""

from __future__ import annotations

from agentlightning.trainer.init_utils import build_component
from agentlightning.trainer.trainer import Trainer

__all__ = ["Trainer", "build_component"]

"""The trainer: an algorithm, runners, a store and a strategy, put together."""

from __future__ import annotations

from agentlightning.trainer.trainer import Trainer

__all__ = ["Trainer"]

"""verl's trainer on this store: verl samples and trains the model, and runners run the agent."""

from __future__ import annotations

from agentlightning.algorithm.verl.settings import VERLSettings
from agentlightning.algorithm.verl.verl import VERL

__all__ = ["VERL", "VERLSettings"]

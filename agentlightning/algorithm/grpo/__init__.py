"""Group-relative policy optimisation: reinforcement learning of a language model, by PyTorch and transformers."""

from __future__ import annotations

from agentlightning.algorithm.grpo.config import GRPOConfig, LoRA
from agentlightning.algorithm.grpo.grpo import GRPO
from agentlightning.algorithm.grpo.progress import BatchProgress, Step, read_history

__all__ = ["GRPO", "BatchProgress", "GRPOConfig", "LoRA", "Step", "read_history"]

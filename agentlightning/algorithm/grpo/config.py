"""What can be set for a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentlightning.types import RolloutConfig


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters: small matrices beside the frozen ones of the model."""

    rank: int = 16
    """Size of the inner dimension."""
    alpha: float = 32.0
    """What the adapters add is scaled by `alpha / rank`."""
    target_modules: str | Sequence[str] = "all-linear"
    """Names of the layers that get adapters; `all-linear` are all linear ones but the last."""


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """Hyperparameters of group-relative policy optimisation.

    Raises:
        ValueError: A value is not one of the possible ones.
    """

    steps: int = 100
    """How often the weights are changed."""
    tasks_per_step: int = 8
    """How many tasks a step takes from the training set."""
    group_size: int = 8
    """How many rollouts each of them gets, which are compared with each other."""
    learning_rate: float = 1e-5
    """Step size of AdamW."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this length where it is longer."""
    passes: int = 1
    """How many updates are made from the rollouts of a step. From the second on, ratios differ from 1."""
    clip_low: float = 0.2
    """How far below 1 the ratio of new to old probability is trusted."""
    clip_high: float = 0.2
    """How far above 1 it is trusted."""
    kl_coef: float = 0.0
    """What the divergence from the first policy counts in the loss. 0 saves computing it."""
    scale_advantages: bool = True
    """Whether advantages are divided by the standard deviation of the rewards of their group."""
    aggregation: Literal["token", "rollout"] = "token"
    """Whether every token counts alike in the loss, or every rollout."""
    tokens_per_batch: int = 4096
    """How many tokens go through the model at once; gradients are summed up over such batches. It bounds the memory
    and changes nothing else."""

    temperature: float = 1.0
    """Temperature of calls in training that ask for none."""
    validation_temperature: float = 0.0
    """Temperature of calls in validation that ask for none; 0 takes the likeliest token."""
    max_response_tokens: int = 512
    """How many tokens a call may return that asks for no limit."""
    max_context_tokens: int | None = None
    """How many tokens prompt and response may have together; None means what the model says."""
    max_concurrency: int = 64
    """How many calls are answered at once; others wait."""

    lora: LoRA | None = field(default_factory=LoRA)
    """The adapters to train. None trains all weights."""
    dtype: str = "float32"
    """The type of the weights, a name of PyTorch."""
    device: str | None = None
    """Where the policy is: `cpu`, `cuda`, `cuda:1`, ...; None means a GPU if there is one."""

    rollout_config: RolloutConfig = field(default_factory=lambda: RolloutConfig(timeout_seconds=600.0))
    """Limits and retries of each rollout."""
    failed_reward: float | None = None
    """What a rollout counts that failed after its model calls or reported no reward; None leaves it out."""

    validate_every: int = 10
    """After how many steps the policy is judged by the validation set; it is before the first and after the last
    step, too. 0 means never."""
    checkpoint_every: int = 1
    """After how many steps a checkpoint is written, besides the last. Steps after the latest one are computed again
    from the rollouts in the store."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept, the newest ones."""
    seed: int = 0
    """Makes the order of the tasks and the choice of tokens repeatable."""

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.clip_low <= 1:
            raise ValueError(f"clip_low must be above 0 and at most 1, not {self.clip_low}")
        if self.aggregation not in ("token", "rollout"):
            raise ValueError(f"aggregation must be token or rollout, not {self.aggregation!r}")


_AT_LEAST: dict[str, Any] = {
    "steps": 1,
    "tasks_per_step": 1,
    "group_size": 2,
    "passes": 1,
    "clip_high": 0,
    "kl_coef": 0,
    "weight_decay": 0,
    "tokens_per_batch": 1,
    "validation_temperature": 0,
    "max_response_tokens": 1,
    "max_concurrency": 1,
    "validate_every": 0,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
}

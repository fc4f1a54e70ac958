"""Training steps of the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agentlightning.algorithm.grpo.config import GRPOConfig
from agentlightning.algorithm.grpo.loss import Loss, grpo_loss
from agentlightning.algorithm.grpo.packing import Row, pack
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.grpo.samples import Sample


@dataclass(frozen=True)
class UpdateMetrics:
    """What a training step did. Averages over tokens are weighted as the loss is."""

    loss: float = 0.0
    """The loss before the step."""
    kl: float = 0.0
    """Divergence from the first policy; 0 where it is not asked for."""
    entropy: float = 0.0
    """Entropy of the policy where it chose, in nats."""
    clipped: float = 0.0
    """Share of tokens whose ratio had left the trusted range, in the last pass."""
    drift: float = 0.0
    """Divergence of the policy that chose the tokens from the one that was trained, before the first pass: rounding,
    if both have the same weights."""
    grad_norm: float = 0.0
    """Length of the gradient before it was scaled down, in the last pass."""
    trained_tokens: int = 0
    """Tokens that the model read."""


class Learner:
    """Changes the weights of a policy by what samples teach."""

    def __init__(self, policy: Policy, config: GRPOConfig) -> None:
        """Prepares the optimizer.

        Args:
            policy: Whose weights to change.
            config: How.
        """
        self._policy = policy
        self._config = config
        self._weights = [weight for _, weight in policy.trainable()]
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )

    def state(self) -> dict[str, Any]:
        """Returns the state of the optimizer."""
        state: dict[str, Any] = self._optimizer.state_dict()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes a state that `state` returned."""
        self._optimizer.load_state_dict(dict(state))

    def update(self, samples: Sequence[Sample]) -> UpdateMetrics:
        """Changes the weights, `passes` times; without samples they stay as they are.

        Calls of the policy wait meanwhile.
        """
        with self._policy.lock:
            rows = list(pack(samples, self._config.tokens_per_batch, self._policy.device))
            with torch.no_grad():
                references = [
                    self._policy.logprobs(row, of_reference=True)[0] if self._config.kl_coef else None for row in rows
                ]
            passes = [self._pass(rows, references) for _ in range(self._config.passes if rows else 0)]
            self._policy.version += 1
        if not passes:
            return UpdateMetrics()
        first, last = passes[0], passes[-1]
        return UpdateMetrics(
            loss=first.loss,
            kl=first.kl,
            entropy=first.entropy,
            clipped=last.clipped,
            drift=first.drift,
            grad_norm=last.grad_norm,
            trained_tokens=first.trained_tokens,
        )

    def _pass(self, rows: Sequence[Row], references: Sequence[torch.Tensor | None]) -> UpdateMetrics:
        losses: list[Loss] = []
        entropy = 0.0
        for row, reference in zip(rows, references, strict=True):
            logprobs, entropies = self._policy.logprobs(row)
            loss = grpo_loss(
                logprobs,
                row.old_logprobs.to(logprobs.dtype),
                row.advantages.to(logprobs.dtype),
                row.weights.to(logprobs.dtype),
                clip_low=self._config.clip_low,
                clip_high=self._config.clip_high,
                reference_logprobs=reference,
                kl_coef=self._config.kl_coef,
            )
            loss.total.backward()
            losses.append(loss)
            entropy += float((row.weights * entropies).sum())
        norm = torch.nn.utils.clip_grad_norm_(self._weights, self._config.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return UpdateMetrics(
            loss=sum(float(loss.total.detach()) for loss in losses),
            kl=sum(float(loss.kl) for loss in losses),
            entropy=entropy / (sum(float(row.weights.sum()) for row in rows) or 1.0),
            clipped=sum(float(loss.clipped) for loss in losses),
            drift=sum(float(loss.drift) for loss in losses),
            grad_norm=float(norm),
            trained_tokens=sum(len(row.tokens) for row in rows),
        )

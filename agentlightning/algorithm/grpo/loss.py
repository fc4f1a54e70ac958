"""The loss of group-relative policy optimisation, on tensors of any shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """The loss of some tokens, and what it is made of: weighted sums over the tokens. Only `total` has a graph."""

    total: Tensor
    """What to descend: `policy` plus `kl_coef` times `kl`."""
    policy: Tensor
    """The clipped policy-gradient term."""
    kl: Tensor
    """The estimated divergence from the reference; 0 without one."""
    clipped: Tensor
    """The share of tokens that push no further, because their ratio has left the trusted range."""
    drift: Tensor
    """The estimated divergence of the policy that chose the tokens from the one that is trained."""


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
) -> Loss:
    r"""Returns the loss of some tokens.

    With the ratio $\rho = \exp(\log\pi - \log\pi_{old})$ and the advantage $A$, each token has the loss
    $-\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A)$. To that comes `kl_coef` times
    $\pi_{ref} / \pi - \log(\pi_{ref} / \pi) - 1$, which is never negative and has the expectation
    $KL(\pi \| \pi_{ref})$ over tokens drawn from $\pi$.

    Args:
        logprobs: Log-probability of each token under the policy that is trained.
        old_logprobs: The same under the policy that chose it.
        advantages: The advantage of each token.
        weights: What each token counts; 0 for those that the policy did not choose.
        clip_low: How far below 1 a ratio is trusted.
        clip_high: How far above 1 a ratio is trusted.
        reference_logprobs: The log-probability of each token under the reference policy.
        kl_coef: What the divergence from the reference counts.
    """
    # Padding has no meaningful log-probabilities: differences are 0 there, so that nothing overflows.
    counted = weights > 0
    log_ratio = torch.where(counted, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    policy = -(weights * torch.minimum(plain, bounded)).sum()
    kl = torch.zeros_like(policy)
    if reference_logprobs is not None:
        log_back = torch.where(counted, reference_logprobs - logprobs, 0.0)
        kl = (weights * (log_back.exp() - log_back - 1)).sum()
    with torch.no_grad():
        clipped = (weights * (bounded < plain)).sum()
        drift = (weights * (ratio - log_ratio - 1)).sum()
    return Loss(policy + kl_coef * kl, policy.detach(), kl.detach(), clipped, drift)

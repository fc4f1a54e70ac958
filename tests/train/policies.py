"""Policies for tests, and the slow, plain way to compute what they compute."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from tiny import DEVICE, load_tiny_model

from agentlightning.algorithm.grpo.config import LoRA
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.policies.generation import Generation

SMALL_LORA = LoRA(rank=2, alpha=4.0)


def tiny_policy(*, lora: LoRA | None = None, with_reference: bool = False) -> Policy:
    """Returns a policy of double precision, in which rounding decides nothing."""
    return Policy.load(load_tiny_model, lora=lora, with_reference=with_reference, device=DEVICE, dtype="float64")


def plain_logprobs(policy: Policy, tokens: Sequence[int], temperature: float = 1.0) -> list[float]:
    """Returns the log-probability of each token but the first after those before it, by one pass over the sequence."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([list(tokens)], device=policy.device)).logits[0] / temperature
    everything = torch.log_softmax(logits, -1)
    return [float(everything[place, token]) for place, token in enumerate(tokens[1:])]


def next_token(policy: Policy, tokens: Sequence[int]) -> torch.Tensor:
    """Returns the probability of each token to come after these."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([list(tokens)], device=policy.device)).logits
    return torch.softmax(logits[0, -1], -1)


def generation(
    prompt: Sequence[int],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    most_tokens: int = 6,
    seed: int = 0,
    changed: Callable[[], None] = lambda: None,
) -> Generation:
    """Returns an answer that is still to be made."""
    return Generation(prompt, temperature, top_p, most_tokens, random.Random(seed), changed=changed)

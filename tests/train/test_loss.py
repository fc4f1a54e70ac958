"""The loss equals what plain arithmetic says."""

from __future__ import annotations

import math

import pytest
import torch

from agentlightning.algorithm.grpo.loss import Loss, grpo_loss

LOW, HIGH = 0.2, 0.3
# Ratios below, inside and above the trusted range, with advantages of both signs, and a token that does not count.
OLD = [-1.0, -1.0, -1.0, -2.0, -0.5, -3.0]
NEW = [-0.5, -1.6, -0.9, -1.9, -1.5, 7.0]
ADVANTAGES = [1.0, 1.0, -0.5, 2.0, -1.0, 5.0]
WEIGHTS = [0.1, 0.2, 0.3, 0.2, 0.2, 0.0]
REFERENCE = [-0.7, -1.2, -0.9, -2.5, -1.0, -900.0]


def loss_of(new: torch.Tensor, **options: object) -> Loss:
    return grpo_loss(
        new,
        torch.tensor(OLD, dtype=torch.float64),
        torch.tensor(ADVANTAGES, dtype=torch.float64),
        torch.tensor(WEIGHTS, dtype=torch.float64),
        clip_low=LOW,
        clip_high=HIGH,
        **options,  # type: ignore[arg-type]
    )


def policy_term(new: float, old: float, advantage: float) -> float:
    ratio = math.exp(new - old)
    return -min(ratio * advantage, min(max(ratio, 1 - LOW), 1 + HIGH) * advantage)


def expected_policy(new: list[float]) -> float:
    terms = zip(new, OLD, ADVANTAGES, WEIGHTS, strict=True)
    return sum(weight * policy_term(each, old, advantage) for each, old, advantage, weight in terms if weight)


def expected_kl(new: list[float]) -> float:
    terms = zip(new, REFERENCE, WEIGHTS, strict=True)
    return sum(weight * (math.exp(ref - each) - (ref - each) - 1) for each, ref, weight in terms if weight)


def test_loss_is_the_clipped_policy_gradient_loss() -> None:
    loss = loss_of(torch.tensor(NEW, dtype=torch.float64))
    assert float(loss.total.detach()) == pytest.approx(expected_policy(NEW))
    assert float(loss.policy) == pytest.approx(expected_policy(NEW))
    assert float(loss.kl) == 0.0
    # The first token went up too far and the fifth down too far for its sign: only these push no further.
    assert float(loss.clipped) == pytest.approx(WEIGHTS[0] + WEIGHTS[4])


def test_divergence_from_the_reference_is_added() -> None:
    reference = torch.tensor(REFERENCE, dtype=torch.float64)
    loss = loss_of(torch.tensor(NEW, dtype=torch.float64), reference_logprobs=reference, kl_coef=0.7)
    assert float(loss.kl) == pytest.approx(expected_kl(NEW))
    assert float(loss.total.detach()) == pytest.approx(expected_policy(NEW) + 0.7 * expected_kl(NEW))


def test_gradient_is_that_of_the_formula() -> None:
    new = torch.tensor(NEW, dtype=torch.float64, requires_grad=True)
    loss_of(new, reference_logprobs=torch.tensor(REFERENCE, dtype=torch.float64), kl_coef=0.7).total.backward()
    assert new.grad is not None
    for index in range(len(NEW)):
        step = [value + (1e-6 if place == index else 0) for place, value in enumerate(NEW)]
        back = [value - (1e-6 if place == index else 0) for place, value in enumerate(NEW)]
        slope = expected_policy(step) - expected_policy(back) + 0.7 * (expected_kl(step) - expected_kl(back))
        assert float(new.grad[index]) == pytest.approx(slope / 2e-6, abs=1e-7)


def test_tokens_that_do_not_count_do_no_harm_whatever_they_hold() -> None:
    new = torch.tensor([*NEW[:5], 5000.0], dtype=torch.float64, requires_grad=True)
    loss = loss_of(new, reference_logprobs=torch.tensor(REFERENCE, dtype=torch.float64), kl_coef=0.7)
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(expected_policy(NEW) + 0.7 * expected_kl(NEW))
    assert new.grad is not None
    assert float(new.grad[5]) == 0.0

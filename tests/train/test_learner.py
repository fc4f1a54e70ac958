"""Training steps do what the formulas say, however the work is cut."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policies import SMALL_LORA, plain_logprobs, tiny_policy
from tiny import load_tiny_model

from agentlightning.algorithm.grpo.checkpoints import Checkpoints
from agentlightning.algorithm.grpo.config import GRPOConfig, LoRA
from agentlightning.algorithm.grpo.learner import Learner
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.grpo.samples import Sample

CONFIG = GRPOConfig(learning_rate=1e-2, lora=None)
GOOD = Sample([3, 5, 4], [6, 7, 1], [True, False, True], [-1.0, 0.0, -2.5], 1.0, 1.5, 0.2)
BAD = Sample([3, 5, 4], [8], [True], [-2.0], 1.0, -1.0, 0.3)
OTHER = Sample([3, 6, 4], [2, 8, 5], [True] * 3, [-2.0, -2.2, -1.9], 0.5, 0.5, 0.1)
SAMPLES = [GOOD, BAD, OTHER]


def token_logprobs(policy: Policy, sample: Sample) -> list[float]:
    whole = plain_logprobs(policy, [*sample.prompt, *sample.completion], sample.temperature)
    return whole[len(sample.prompt) - 1 :]


def expected_loss(policy: Policy, reference: Policy, config: GRPOConfig) -> float:
    """Adds the loss up token by token."""
    total = 0.0
    for sample in SAMPLES:
        both = zip(token_logprobs(policy, sample), token_logprobs(reference, sample), strict=True)
        for (new, ref), old, chosen in zip(both, sample.logprobs, sample.chosen, strict=True):
            if chosen:
                ratio = math.exp(new - old)
                bounded = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
                gain = min(ratio * sample.advantage, bounded * sample.advantage)
                kl = math.exp(ref - new) - (ref - new) - 1
                total += sample.weight * (config.kl_coef * kl - gain)
    return total


@pytest.mark.parametrize("lora", [None, SMALL_LORA], ids=["full", "lora"])
def test_loss_of_a_step_is_the_sum_over_its_tokens(lora: LoRA | None) -> None:
    config = replace(CONFIG, lora=lora, kl_coef=0.3)
    policy, untrained = tiny_policy(lora=lora, with_reference=True), tiny_policy()
    learner = Learner(policy, config)
    first = expected_loss(policy, untrained, config)
    metrics = learner.update(SAMPLES)
    assert metrics.loss == pytest.approx(first, abs=1e-9)
    assert metrics.kl == pytest.approx(0.0, abs=1e-12)
    # The policy has moved, and its reference has not.
    second = expected_loss(policy, untrained, config)
    metrics = learner.update(SAMPLES)
    assert metrics.loss == pytest.approx(second, abs=1e-9)
    assert metrics.kl > 1e-6


def test_better_answers_become_likelier_and_worse_ones_less() -> None:
    policy = tiny_policy()
    before = [sum(token_logprobs(policy, sample)) for sample in (GOOD, BAD)]
    fresh = [
        replace(sample, logprobs=token_logprobs(policy, sample), chosen=[True] * len(sample.completion))
        for sample in (GOOD, BAD)
    ]
    Learner(policy, CONFIG).update(fresh)
    good, bad = [sum(token_logprobs(policy, sample)) for sample in (GOOD, BAD)]
    assert good > before[0]
    assert bad < before[1]
    assert policy.version == 1


@pytest.mark.parametrize("tokens_per_batch", [1, 6])
def test_weights_after_a_step_do_not_depend_on_how_gradients_are_accumulated(tokens_per_batch: int) -> None:
    whole, parts = tiny_policy(), tiny_policy()
    Learner(whole, CONFIG).update(SAMPLES)
    Learner(parts, replace(CONFIG, tokens_per_batch=tokens_per_batch)).update(SAMPLES)
    for name, weight in whole.state().items():
        # AdamW divides by gradients that may be as small as rounding.
        assert torch.allclose(weight, parts.state()[name], rtol=0, atol=1e-6), name


def test_gradients_are_scaled_down_to_the_longest_that_is_allowed() -> None:
    policy = tiny_policy()
    learner = Learner(policy, replace(CONFIG, max_grad_norm=1e-3))
    seen = []
    learner._optimizer.register_step_pre_hook(  # noqa: SLF001
        lambda optimizer, *_: seen.append(
            math.sqrt(sum(float(weight.grad.norm()) ** 2 for weight in optimizer.param_groups[0]["params"]))
        )
    )
    assert learner.update(SAMPLES).grad_norm > 1e-3
    assert seen == [pytest.approx(1e-3, rel=1e-3)]


def test_later_passes_stop_pushing_tokens_out_of_the_trusted_range() -> None:
    policy = tiny_policy()
    fresh = [
        replace(sample, logprobs=token_logprobs(policy, sample), chosen=[True] * len(sample.completion))
        for sample in SAMPLES
    ]
    once = Learner(tiny_policy(), replace(CONFIG, learning_rate=3e-2)).update(fresh)
    often = Learner(policy, replace(CONFIG, learning_rate=3e-2, passes=6)).update(fresh)
    assert once.clipped == 0.0
    assert once.drift == pytest.approx(0.0, abs=1e-12)
    assert often.clipped > 0.1
    assert often.drift == pytest.approx(0.0, abs=1e-12)


def test_lora_leaves_the_model_itself_alone() -> None:
    policy = tiny_policy(lora=SMALL_LORA)
    frozen = {name: weight.clone() for name, weight in policy.model.named_parameters() if not weight.requires_grad}
    Learner(policy, replace(CONFIG, lora=SMALL_LORA)).update(SAMPLES)
    assert all("lora" in name for name, _ in policy.trainable())
    for name, weight in policy.model.named_parameters():
        assert weight.requires_grad or torch.equal(weight, frozen[name])
    assert any(weight.abs().max() > 0 for name, weight in policy.trainable() if "lora_B" in name)


def test_without_samples_the_weights_stay_and_the_version_goes_on() -> None:
    policy = tiny_policy()
    before = policy.state()
    metrics = Learner(policy, CONFIG).update([])
    assert metrics.trained_tokens == 0
    assert policy.version == 1
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state().items())


@pytest.mark.parametrize("lora", [None, SMALL_LORA], ids=["full", "lora"])
def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(lora: LoRA | None, tmp_path: Path) -> None:
    config = replace(CONFIG, lora=lora)
    policy = tiny_policy(lora=lora)
    learner = Learner(policy, config)
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert not checkpoints.restore(policy, learner)
    for _ in range(3):
        learner.update(SAMPLES)
        checkpoints.save(policy, learner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002.pt", "step-000003.pt"]
    (tmp_path / "step-000009.draft").write_bytes(b"of a process that was killed")
    other = tiny_policy(lora=lora)
    other_learner = Learner(other, config)
    assert checkpoints.restore(other, other_learner)
    assert other.version == 3
    assert other_learner.update(SAMPLES) == learner.update(SAMPLES)
    for name, weight in policy.state().items():
        assert torch.equal(weight, other.state()[name])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    policy = tiny_policy()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(policy, Learner(policy, CONFIG))
    adapted = tiny_policy(lora=SMALL_LORA)
    with pytest.raises(ValueError, match="of another model, or of other adapters"):
        checkpoints.restore(adapted, Learner(adapted, CONFIG))


def test_adapters_begin_alike_with_the_same_seed() -> None:
    def first_weights(seed: int) -> dict[str, torch.Tensor]:
        return Policy(*load_tiny_model(), lora=SMALL_LORA, seed=seed).state()

    again, other = first_weights(1), first_weights(2)
    torch.manual_seed(5)
    for name, weight in first_weights(1).items():
        assert torch.equal(weight, again[name])
        assert "lora_A" not in name or not torch.equal(weight, other[name])


def test_models_and_types_that_cannot_be_trained_are_refused() -> None:
    model, tokenizer = load_tiny_model()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="LlamaForCausalLM has layers of the kind sliding_attention"):
        Policy(model, tokenizer)
    with pytest.raises(ValueError, match="no type 'float33'"):
        Policy.load(load_tiny_model, dtype="float33")
    model, tokenizer = load_tiny_model()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        Policy(model, tokenizer)

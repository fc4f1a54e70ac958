"""Packed rows give what each sample alone gives."""

from __future__ import annotations

import pytest
import torch
from policies import SMALL_LORA, plain_logprobs, tiny_policy

from agentlightning.algorithm.grpo.config import LoRA
from agentlightning.algorithm.grpo.packing import pack
from agentlightning.algorithm.grpo.samples import Sample


def sample(prompt: list[int], completion: list[int], temperature: float = 1.0, advantage: float = 1.0) -> Sample:
    chosen = [place != 1 for place in range(len(completion))]
    return Sample(prompt, completion, chosen, [-0.25] * len(completion), temperature, advantage, 0.1)


SAMPLES = [
    sample([3, 5, 4], [6, 7, 8, 1]),
    sample([3, 6, 2, 4], [5], advantage=-1.0),
    sample([3, 5, 4], [8]),
    sample([3, 5, 4], [7, 7], temperature=0.5),
]


@pytest.mark.parametrize("most_tokens", [1, 8, 1000])
@pytest.mark.parametrize("lora", [None, SMALL_LORA], ids=["full", "lora"])
def test_logprobs_of_packed_samples_are_those_of_each_sample_alone(most_tokens: int, lora: LoRA | None) -> None:
    policy = tiny_policy(lora=lora)
    packed = []
    for row in pack(SAMPLES, most_tokens, policy.device):
        with torch.no_grad():
            logprobs, _ = policy.logprobs(row)
        packed += zip(row.temperatures.tolist(), row.targets.tolist(), logprobs.tolist(), strict=True)
    alone = []
    for each in SAMPLES:
        logprobs = plain_logprobs(policy, [*each.prompt, *each.completion], each.temperature)[len(each.prompt) - 1 :]
        alone += [(each.temperature, *pair) for pair in zip(each.completion, logprobs, strict=True)]
    assert torch.allclose(torch.tensor(sorted(packed)), torch.tensor(sorted(alone)), rtol=0, atol=1e-12)


def test_samples_of_a_prompt_share_it() -> None:
    (row,) = pack(SAMPLES, 1000)
    # The shared prompt, three completions without their last tokens; the other prompt, and a completion of one token.
    assert len(row.tokens) == 3 + (3 + 0 + 1) + 4 + 0
    assert len(row.targets) == 4 + 1 + 1 + 2


def test_rows_are_no_longer_than_allowed_unless_a_sample_alone_is() -> None:
    rows = list(pack(SAMPLES, 6))
    assert [len(row.tokens) for row in rows] == [6, 4, 4]
    assert sum(len(row.targets) for row in rows) == 8


def test_tokens_that_were_not_chosen_have_no_weight() -> None:
    (row,) = pack(SAMPLES[:1], 1000)
    assert row.weights.tolist() == [0.1, 0.0, 0.1, 0.1]
    assert row.advantages.tolist() == [1.0] * 4


def test_nothing_to_pack_makes_no_rows() -> None:
    assert list(pack([], 10)) == []

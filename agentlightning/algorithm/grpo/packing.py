"""Samples as rows of tokens without padding, in which samples of the same prompt share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agentlightning.algorithm.grpo.samples import Sample


@dataclass(frozen=True)
class Row:
    """Some prompts, each followed by completions that see their prompt and themselves, but not each other.

    A group of eight answers to a prompt twice as long costs 10 instead of 24 lengths of an answer that way.
    """

    tokens: Tensor
    """What the model reads, shape (length,)."""
    positions: Tensor
    """Where each token stands in its own sequence, shape (length,)."""
    prompt_of: Tensor
    """The number of the prompt that each token is or follows, shape (length,)."""
    branch_of: Tensor
    """The number of the completion that each token is in, 0 for prompts, shape (length,)."""
    predicting: Tensor
    """For each token of a completion the place in the row at which it is predicted, shape (targets,)."""
    targets: Tensor
    """The tokens of the completions, shape (targets,), as all that follow."""
    old_logprobs: Tensor
    """Log-probability of each when it was chosen."""
    advantages: Tensor
    """Advantage of each."""
    weights: Tensor
    """What each counts in the loss; 0 where the policy did not choose it."""
    temperatures: Tensor
    """What the logits are divided by."""

    def visible(self) -> Tensor:
        """Returns which token sees which, shape (length, length), true at [i, j] where i sees j."""
        order = torch.arange(len(self.tokens), device=self.tokens.device)
        same_prompt = self.prompt_of[:, None] == self.prompt_of
        along_branch = (self.branch_of == 0) | (self.branch_of[:, None] == self.branch_of)
        return (order[:, None] >= order) & same_prompt & along_branch


def pack(samples: Sequence[Sample], most_tokens: int, device: torch.device | str = "cpu") -> Iterator[Row]:
    """Yields rows that hold all the samples, in an order of its own.

    Args:
        samples: What to pack.
        most_tokens: How long a row may be. A single sample that is longer gets a row of its own.
        device: Where the tensors are to be.
    """
    by_prompt: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(tuple(sample.prompt), []).append(sample)
    row = _Draft()
    for prompt, followers in by_prompt.items():
        is_new = True
        for sample in followers:
            # The last token of a completion predicts nothing and is not read.
            length = len(sample.completion) - 1
            if row.tokens and len(row.tokens) + length + is_new * len(prompt) > most_tokens:
                yield row.finish(device)
                row, is_new = _Draft(), True
            if is_new:
                row.add_prompt(prompt)
                is_new = False
            row.add_completion(sample)
    if row.tokens:
        yield row.finish(device)


class _Draft:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._positions: list[int] = []
        self._prompt_of: list[int] = []
        self._branch_of: list[int] = []
        self._predicting: list[int] = []
        self._samples: list[Sample] = []
        self._prompt_length = 0
        self._last_of_prompt = -1
        self._prompts = 0

    def add_prompt(self, prompt: Sequence[int]) -> None:
        self._prompts += 1
        self._prompt_length = len(prompt)
        self._read(prompt, 0, branch=0)
        self._last_of_prompt = len(self.tokens) - 1

    def add_completion(self, sample: Sample) -> None:
        begin = len(self.tokens)
        self._samples.append(sample)
        self._read(sample.completion[:-1], self._prompt_length, branch=len(self._samples))
        self._predicting += [self._last_of_prompt, *range(begin, len(self.tokens))]

    def _read(self, tokens: Sequence[int], position: int, branch: int) -> None:
        self.tokens += tokens
        self._positions += range(position, position + len(tokens))
        self._prompt_of += [self._prompts] * len(tokens)
        self._branch_of += [branch] * len(tokens)

    def finish(self, device: torch.device | str) -> Row:
        def each(values: Iterator[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float64, device=device)

        pairs = [(sample, chosen) for sample in self._samples for chosen in sample.chosen]
        return Row(
            tokens=torch.tensor(self.tokens, device=device),
            positions=torch.tensor(self._positions, device=device),
            prompt_of=torch.tensor(self._prompt_of, device=device),
            branch_of=torch.tensor(self._branch_of, device=device),
            predicting=torch.tensor(self._predicting, device=device),
            targets=torch.tensor([token for sample in self._samples for token in sample.completion], device=device),
            old_logprobs=each(value for sample in self._samples for value in sample.logprobs),
            advantages=each(sample.advantage for sample, _ in pairs),
            weights=each(sample.weight * chosen for sample, chosen in pairs),
            temperatures=each(sample.temperature for sample, _ in pairs),
        )

"""What a model keeps of the tokens that it has read: keys and values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final

import torch
from torch import Tensor

from agentlightning.algorithm.grpo.policy import Policy

_KEPT_PROMPT_TOKENS: Final = 16_384
"""How many tokens of prompts are kept for others that begin alike."""


class Cache:
    """Keys and values of some rows. Rows are aligned at their ends, so that new tokens of all of them stand together.

    Attributes:
        layers: Keys and values of each layer, of shape (rows, heads, width, size).
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        """Makes a cache of its layers."""
        self.layers = layers

    @classmethod
    def of(cls, cache: Any) -> Cache:
        """Takes what a model returned."""
        return cls([(layer.keys, layer.values) for layer in cache.layers])

    @classmethod
    def joined(cls, caches: Sequence[Cache]) -> Cache:
        """Returns the rows of several caches, filled up at their beginnings to the width of the widest."""
        width = max(cache.width for cache in caches)

        def join(layer: int, part: int) -> Tensor:
            return torch.cat(
                [torch.nn.functional.pad(cache.layers[layer][part], (0, 0, width - cache.width, 0)) for cache in caches]
            )

        return cls([(join(layer, 0), join(layer, 1)) for layer in range(len(caches[0].layers))])

    @property
    def width(self) -> int:
        """How many tokens the longest row holds."""
        return int(self.layers[0][0].shape[-2])

    def for_model(self) -> Any:
        """Returns it as models take it. What a model adds does not appear here."""
        from transformers import DynamicCache

        return DynamicCache(self.layers)

    def rows(self, indices: Sequence[int], width: int) -> Cache:
        """Returns some of the rows, and of these the last `width` tokens."""
        begin = self.width - width
        return Cache([(keys[indices, :, begin:], values[indices, :, begin:]) for keys, values in self.layers])

    def beginning(self, width: int) -> Cache:
        """Returns the first `width` tokens of the rows."""
        return Cache([(keys[:, :, :width], values[:, :, :width]) for keys, values in self.layers])


class PromptCache:
    """Reads prompts. What they have in common with those before is not read again while the weights are the same."""

    def __init__(self, policy: Policy) -> None:
        """Begins empty.

        Args:
            policy: What reads.
        """
        self._policy = policy
        self._version = policy.version
        self._kept: OrderedDict[tuple[int, ...], tuple[Cache, Tensor]] = OrderedDict()

    def read(self, prompt: Sequence[int]) -> tuple[Cache, Tensor]:
        """Returns the cache of a prompt, of one row, and the logits of what may follow, of shape (1, tokens)."""
        if self._version != self._policy.version:
            self._kept.clear()
            self._version = self._policy.version
        key = tuple(prompt)
        if key not in self._kept:
            self._kept[key] = self._compute(key)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(len, self._kept)) > _KEPT_PROMPT_TOKENS:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _compute(self, prompt: tuple[int, ...]) -> tuple[Cache, Tensor]:
        likest = max(self._kept, key=lambda kept: _in_common(kept, prompt), default=())
        # The last token is read in any case: what may follow is known of whole prompts only.
        known = min(_in_common(likest, prompt), len(prompt) - 1)
        output = self._policy.model(
            input_ids=torch.tensor([prompt[known:]], device=self._policy.device),
            past_key_values=self._kept[likest][0].beginning(known).for_model() if known else None,
            logits_to_keep=1,
            use_cache=True,
        )
        return Cache.of(output.past_key_values), output.logits[:, -1]


def _in_common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))

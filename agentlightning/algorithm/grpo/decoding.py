"""Sampling from the policy: many answers at once, which begin and end whenever they want."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agentlightning.algorithm.grpo.caches import Cache, PromptCache
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.policies.generation import Generation

logger = logging.getLogger(__name__)


class Decoder:
    """Answers in a thread of its own. Up to `max_concurrency` answers are made at once; more wait for their turn."""

    def __init__(self, policy: Policy, max_concurrency: int) -> None:
        """Prepares to answer; `start` begins.

        Args:
            policy: What answers. Its `lock` is held for each token, so that weights change between tokens only.
            max_concurrency: How many answers to make at once.
        """
        self._policy = policy
        self._max_concurrency = max_concurrency
        self._waiting: deque[Generation] = deque()
        self._news = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="agl-decoder", daemon=True)

    @property
    def tokenizer(self) -> Any:
        """That of the policy."""
        return self._policy.tokenizer

    @property
    def template_options(self) -> Mapping[str, Any]:
        """None: the chat template is taken as it is."""
        return {}

    @property
    def version(self) -> str:
        """That of the policy."""
        return str(self._policy.version)

    @property
    def max_context_tokens(self) -> int:
        """How many tokens the model reads at most."""
        return self._policy.max_context_tokens

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the model knows."""
        return self._policy.vocabulary_size

    @property
    def draws(self) -> bool:
        """Yes, each token."""
        return True

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the token that is being made; answers that are not over fail."""
        with self._news:
            self._stopped = True
            self._news.notify()
        self._thread.join()

    def submit(self, generation: Generation) -> None:
        """Has an answer made."""
        with self._news:
            if self._stopped:
                raise RuntimeError("the decoder has been stopped")
            self._waiting.append(generation)
            self._news.notify()

    def _run(self) -> None:
        batch = _Batch(self._policy)
        while self._admit(batch):
            try:
                with self._policy.lock, torch.inference_mode():
                    batch.step()
            except Exception as error:  # whoever waits is told; the next answer may fit into the memory
                logger.exception("%d answers failed", len(batch.generations))
                batch.fail(error)
                batch = _Batch(self._policy)
        batch.fail(RuntimeError("the policy server has been stopped"))

    def _admit(self, batch: _Batch) -> bool:
        """Takes up answers as they come and waits while there is none; returns False when that is to end."""
        with self._news:
            while not (self._stopped or self._waiting or batch.generations):
                self._news.wait()
            while self._waiting and len(batch.generations) < self._max_concurrency:
                batch.generations.append(self._waiting.popleft())
            if self._stopped:
                batch.generations.extend(self._waiting)
            return not self._stopped


class _Batch:
    """The answers that are being made, each a row of the cache."""

    def __init__(self, policy: Policy) -> None:
        self.generations: list[Generation] = []
        self._policy = policy
        self._prompts = PromptCache(policy)
        self._cache: Cache | None = None
        self._lengths: list[int] = []

    def fail(self, error: BaseException) -> None:
        for generation in self.generations:
            generation.error = error
            generation.changed()

    def step(self) -> None:
        """Makes one token of each answer, after reading the prompts of new ones, and drops those that are over."""
        self._drop_finished()
        if not self.generations:
            return
        begun = len(self._lengths)
        known = [self._next_logits(begun)] if begun else []
        read = [self._prompts.read(generation.prompt) for generation in self.generations[begun:]]
        if read:
            self._join([cache for cache, _ in read])
        logits = torch.cat([*known, *(last for _, last in read)])
        for generation in self.generations[begun:]:
            generation.version = str(self._policy.version)
        _choose(self.generations, logits)
        ends = self._policy.end_tokens
        for generation in self.generations:
            if generation.tokens[-1] in ends or (generation.stops and generation.stops(generation.tokens)):
                generation.finish_reason = "stop"
            elif len(generation.tokens) >= generation.most_tokens:
                generation.finish_reason = "length"
            generation.changed()
        self._drop_finished()

    def _next_logits(self, count: int) -> Tensor:
        """Has the model read the last token of each answer that was begun; returns what may follow, (count, tokens)."""
        device = self._policy.device
        cache = self._cache
        assert cache is not None
        self._lengths = [length + 1 for length in self._lengths]
        lengths = torch.tensor(self._lengths, device=device)
        width = cache.width + 1
        output = self._policy.model(
            input_ids=torch.tensor([[each.tokens[-1]] for each in self.generations[:count]], device=device),
            position_ids=lengths[:, None] - 1,
            attention_mask=(torch.arange(width, device=device) >= width - lengths[:, None]).long(),
            past_key_values=cache.for_model(),
            use_cache=True,
        )
        self._cache = Cache.of(output.past_key_values)
        logits: Tensor = output.logits[:, -1]
        return logits

    def _join(self, caches: Sequence[Cache]) -> None:
        self._lengths += [cache.width for cache in caches]
        self._cache = Cache.joined([*([self._cache] if self._cache else []), *caches])

    def _drop_finished(self) -> None:
        keep = [index for index, generation in enumerate(self.generations) if not generation.is_over]
        if len(keep) == len(self.generations):
            return
        self.generations = [self.generations[index] for index in keep]
        begun = [index for index in keep if index < len(self._lengths)]
        self._lengths = [self._lengths[index] for index in begun]
        self._cache = self._cache.rows(begun, max(self._lengths)) if self._cache and begun else None


def _choose(generations: Sequence[Generation], logits: Tensor) -> None:
    """Adds a token to each generation.

    Args:
        generations: The answers.
        logits: What may follow each, of shape (answers, tokens).
    """
    greedy = torch.tensor([generation.temperature == 0 for generation in generations], device=logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    temperatures = torch.tensor([generation.temperature or 1.0 for generation in generations]).to(logits)
    logprobs = torch.log_softmax(logits / temperatures[:, None], dim=-1)
    sampled = _sample(logprobs.exp(), generations)
    tokens = torch.where(greedy, logits.argmax(-1), sampled)
    chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    for generation, token, logprob in zip(generations, tokens.tolist(), chosen, strict=True):
        generation.tokens.append(token)
        generation.logprobs.append(logprob)


def _sample(probabilities: Tensor, generations: Sequence[Generation]) -> Tensor:
    draws = torch.tensor([[each.chance.random()] for each in generations], dtype=torch.float64).to(probabilities.device)
    top_p = [generation.top_p for generation in generations]
    if min(top_p) < 1:
        limits = torch.tensor(top_p).to(probabilities)
        ranked, order = probabilities.sort(-1, descending=True)
        # Those are left out before which the others suffice already.
        spare = (ranked.cumsum(-1) - ranked >= limits[:, None]) & (limits[:, None] < 1)
        probabilities = probabilities.scatter(-1, order, ranked.masked_fill(spare, 0.0))
    # In double precision, since the sum goes over the whole vocabulary.
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    # Tokens of probability 0 add nothing to the sum before them, so that none of them is found.
    found = torch.searchsorted(sums, draws * sums[:, -1:], right=True).squeeze(-1)
    return found.clamp(max=probabilities.shape[-1] - 1)

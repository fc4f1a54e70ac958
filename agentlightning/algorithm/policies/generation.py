"""Answers while they are made, and what makes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass
class Generation:
    """One answer while it is made."""

    prompt: Sequence[int]
    """Token ids of the prompt."""
    temperature: float
    """What the logits are divided by; 0 takes the likeliest token."""
    top_p: float
    """Only the likeliest tokens that have this probability together are chosen from."""
    most_tokens: int
    """After how many tokens the answer ends."""
    chance: random.Random
    """Chooses. The same one chooses alike from the same probabilities, whatever else is answered meanwhile."""
    model: str = ""
    """The name by which the policy was asked."""
    rollout_id: str | None = None
    """The rollout that asks, if that is known."""
    stops: Callable[[Sequence[int]], bool] | None = None
    """Whether the answer ends with these tokens; None where only the model ends it."""
    changed: Callable[[], None] = lambda: None
    """Is called, in the thread that makes the answer, when there are more tokens and when it has ended or failed."""
    tokens: list[int] = field(default_factory=list)
    """The answer."""
    logprobs: list[float] = field(default_factory=list)
    """The log-probability of each of its tokens: at `temperature`, and before `top_p`. For a temperature of 0, at 1."""
    version: str = ""
    """The weights that began it."""
    finish_reason: FinishReason | None = None
    """Why it ended; None while it has not."""
    error: BaseException | None = None
    """Why it failed, if it did."""
    abandoned: bool = False
    """Set by whoever lost interest."""

    @property
    def has_begun(self) -> bool:
        """Whether there is something to send, so that `version` is known if it ever will be."""
        return bool(self.tokens) or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return self.abandoned or self.finish_reason is not None or self.error is not None


class Sampler(Protocol):
    """What makes answers: a model of this process, or an engine elsewhere."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as transformers has them."""

    @property
    def template_options(self) -> Mapping[str, Any]:
        """What its chat template is given besides the messages and tools."""

    @property
    def version(self) -> str:
        """The weights that an answer would begin with now; empty if that is not known."""

    @property
    def max_context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the model knows."""

    @property
    def draws(self) -> bool:
        """Whether it chooses by the `chance` of an answer."""

    def start(self) -> None:
        """Begins to answer."""

    def stop(self) -> None:
        """Ends; answers that are not over fail."""

    def submit(self, generation: Generation) -> None:
        """Has an answer made. Adds log-probabilities after their tokens, and the reason why it ended last."""

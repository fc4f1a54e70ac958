"""verl's engine as what answers the calls of agents."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentlightning.algorithm.policies.generation import Generation

logger = logging.getLogger(__name__)

Generate = Callable[..., Awaitable[Any]]
"""`generate` of verl's server manager: `(request_id, *, prompt_ids, sampling_params)` to a `TokenOutput`."""


@dataclass
class Conversation:
    """What verl's engine is asked for in one rollout."""

    sampling_params: Mapping[str, Any]
    """What verl asks of the engine; agents may ask for another temperature, top_p and number of tokens."""
    seconds: float = 0.0
    """How long the engine took for all answers together."""
    weights: list[int] = field(default_factory=list)
    """The training steps that the weights of the answers come from."""
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    """The answers under way."""


class EngineSampler:
    """A sampler that has verl's engine make the answers of rollouts under way, and of no others.

    verl changes the weights of its engine, and takes its memory away, when it has what it waited for. So a call of a
    rollout that is over is refused.
    """

    def __init__(
        self,
        generate: Generate,
        tokenizer: Any,
        *,
        template_options: Mapping[str, Any],
        max_context_tokens: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Prepares to answer.

        Args:
            generate: Makes an answer.
            tokenizer: The model's tokenizer.
            template_options: What its chat template is given besides messages and tools.
            max_context_tokens: How many tokens prompt and answer may have together.
            loop: The event loop on which to call `generate`.
        """
        # Calls are tokenized in another thread than verl's own, and tokenizers change when they are used.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.template_options = template_options
        self.max_context_tokens = max_context_tokens
        self.vocabulary_size = len(tokenizer)
        self.draws = False
        self._generate = generate
        self._loop = loop
        self._conversations: dict[str, Conversation] = {}
        self._latest: int | None = None

    @property
    def version(self) -> str:
        """The step of the weights that answered last."""
        return "" if self._latest is None else str(self._latest)

    def start(self) -> None:
        """Does nothing: verl has started the engine."""

    def stop(self) -> None:
        """Does nothing: conversations end by themselves."""

    @asynccontextmanager
    async def conversation(self, rollout_id: str, sampling_params: Mapping[str, Any]) -> AsyncIterator[Conversation]:
        """Answers the calls of a rollout as long as the block runs; leaves it when no answer is under way any more.

        Args:
            rollout_id: The rollout.
            sampling_params: What verl asks of the engine.
        """
        conversation = self._conversations[rollout_id] = Conversation(sampling_params)
        try:
            yield conversation
        finally:
            del self._conversations[rollout_id]
            if conversation.answers:
                await asyncio.wait(conversation.answers)

    def submit(self, generation: Generation) -> None:
        """Has an answer made; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._begin, generation)

    def _begin(self, generation: Generation) -> None:
        conversation = self._conversations.get(generation.rollout_id or "")
        if conversation is None:
            generation.error = RuntimeError(f"rollout {generation.rollout_id} is over, or none of this worker")
            generation.changed()
            return
        answer = asyncio.create_task(self._answer(generation, conversation))
        conversation.answers.add(answer)
        answer.add_done_callback(conversation.answers.discard)

    async def _answer(self, generation: Generation, conversation: Conversation) -> None:
        began = time.monotonic()
        try:
            output = await self._generate(
                # Answers of one rollout go to one server, which knows the beginning of the prompt.
                generation.rollout_id,
                prompt_ids=list(generation.prompt),
                sampling_params={
                    **conversation.sampling_params,
                    "temperature": generation.temperature,
                    "top_p": generation.top_p,
                    "max_tokens": generation.most_tokens,
                    "logprobs": True,
                },
            )
            self._take(generation, output, conversation)
        except Exception as error:  # the agent is told, and decides
            logger.exception("rollout %s: verl's engine failed", generation.rollout_id)
            generation.error = error
        finally:
            conversation.seconds += time.monotonic() - began
            generation.changed()

    def _take(self, generation: Generation, output: Any, conversation: Conversation) -> None:
        steps = [output.extra_fields.get(name) for name in ("min_global_steps", "max_global_steps")]
        weights = [int(step) for step in steps if step is not None]
        if weights:
            conversation.weights += weights
            self._latest = weights[-1]
            generation.version = str(weights[0])
        end, is_stopped = _end(output.token_ids, generation)
        generation.tokens = list(output.token_ids[:end])
        generation.logprobs = list((output.log_probs or ())[:end])
        is_cut = not is_stopped and (
            output.stop_reason in ("abort", "aborted")
            or (end >= generation.most_tokens and generation.tokens[-1] != self.tokenizer.eos_token_id)
        )
        generation.finish_reason = "length" if is_cut else "stop"


def _end(tokens: list[int], generation: Generation) -> tuple[int, bool]:
    """Returns how many tokens there are up to the first that completes a text that ends the answer, and if one does."""
    if generation.stops is not None:
        # verl's engines have no tokenizer and know no texts.
        for count in range(1, len(tokens) + 1):
            if generation.stops(tokens[:count]):
                return count, True
    return len(tokens), False

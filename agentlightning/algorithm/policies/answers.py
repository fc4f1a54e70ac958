"""What the answers of the policy server look like: OpenAI's documents and streams, extended as vLLM does."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from agentlightning.algorithm.policies.generation import Generation, Sampler
from agentlightning.algorithm.policies.requests import BadRequest, ChatRequest, CompletionRequest, GenerationRequest
from agentlightning.algorithm.policies.tool_calls import split_tool_calls

Document = dict[str, Any]
R = TypeVar("R", bound=GenerationRequest)

_HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# A character may be made of four tokens, and the stop need not begin where a token does.
_TOKENS_PER_CHARACTER = 4


class Answer(ABC, Generic[R]):
    """The answer to a request, for which there may be several generations."""

    _prefix: ClassVar[str]
    _whole: ClassVar[str]
    _part: ClassVar[str]

    def __init__(self, request: R, sampler: Sampler) -> None:
        """Prepares an answer; subclasses make the prompts.

        Args:
            request: What was asked.
            sampler: Who answers.
        """
        self.request = request
        self.prompts: list[list[int]] = []
        self._tokenizer = sampler.tokenizer
        self._head = {"id": f"{self._prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}

    def is_stopped(self, tokens: Sequence[int]) -> bool:
        """Returns whether the last of these tokens completed a text that ends the answer."""
        stops = self.request.stops
        window = _TOKENS_PER_CHARACTER * (max(map(len, stops)) + 1)
        text = self._decoded(tokens[-window:])
        return any(stop in text for stop in stops)

    def document(self, generations: Sequence[Generation]) -> Document:
        """Returns the whole answer."""
        choices = [{"index": index, **self._choice(each)} for index, each in enumerate(generations)]
        prompt = self._prompt_ids() if self.request.return_token_ids else {}
        return {**self._head, "object": self._whole, "choices": choices, "usage": self.usage(generations), **prompt}

    def chunk(self, index: int, generation: Generation, begin: int, end: int, text: str) -> Document:
        """Returns a part of a stream.

        Args:
            index: The number of the choice.
            generation: The choice.
            begin: The first token that the part reports.
            end: The first that it does not.
            text: What the part adds to the text.
        """
        delta = {"index": index, **self._delta(generation, begin, end, text)}
        prompt = self._prompt_ids() if self.request.return_token_ids and begin == 0 else {}
        return {**self._head, "object": self._part, "choices": [delta], **prompt}

    def closing_chunk(self, generations: Sequence[Generation]) -> Document:
        """Returns the last part of a stream, with the numbers of tokens."""
        return {**self._head, "object": self._part, "choices": [], "usage": self.usage(generations)}

    def usage(self, generations: Sequence[Generation]) -> Document:
        """Returns the numbers of tokens."""
        read = sum(map(len, self.prompts))
        written = sum(len(generation.tokens) for generation in generations)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def streamable_text(self, tokens: Sequence[int], *, is_whole: bool) -> str:
        """Returns how much of the text of an answer may be sent: what a further token may take back is not."""
        text = self._text(tokens)
        if is_whole:
            return text
        held_back = max((len(stop) - 1 for stop in self.request.stops), default=0)
        return text[: len(text) - held_back].removesuffix(_HALF_A_CHARACTER)

    @abstractmethod
    def _choice(self, generation: Generation) -> Document:
        """Returns a finished choice without its number."""

    @abstractmethod
    def _delta(self, generation: Generation, begin: int, end: int, text: str) -> Document:
        """Returns a part of a choice without its number; see `chunk`."""

    def _prompt_ids(self) -> Document:
        return {}

    def _ids(self, tokens: Sequence[int]) -> Document:
        return {"token_ids": list(tokens)} if self.request.return_token_ids else {}

    def _text(self, tokens: Sequence[int]) -> str:
        text = self._decoded(tokens)
        ends = [text.find(stop) for stop in self.request.stops if stop in text]
        return text[: min(ends)] if ends else text

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class ChatAnswer(Answer[ChatRequest]):
    """An answer to a request for chat completions.

    Raises:
        BadRequest: The chat template does not take the messages.
    """

    _prefix = "chatcmpl"
    _whole = "chat.completion"
    _part = "chat.completion.chunk"

    def __init__(self, request: ChatRequest, sampler: Sampler) -> None:
        super().__init__(request, sampler)
        conversation = request.conversation()
        try:
            prompt = self._tokenizer.apply_chat_template(
                conversation,
                tools=request.offered_tools,
                **{**sampler.template_options, "add_generation_prompt": True, "tokenize": False},
            )
        except Exception as error:  # templates are programs, and raise what they like
            raise BadRequest(f"the chat template does not take these messages: {error}") from error
        self.prompts = [self._tokenizer.encode(prompt, add_special_tokens=False)]

    def streamable_text(self, tokens: Sequence[int], *, is_whole: bool) -> str:
        # Where tools may be called, what is text and what is a call shows at the end.
        return "" if self.request.offered_tools else super().streamable_text(tokens, is_whole=is_whole)

    def _choice(self, generation: Generation) -> Document:
        message, reason = self._message(generation)
        return {
            "message": {"role": "assistant", **message},
            "logprobs": self._logprobs(generation, 0, len(generation.tokens)),
            "finish_reason": reason,
            **self._ids(generation.tokens),
        }

    def _delta(self, generation: Generation, begin: int, end: int, text: str) -> Document:
        delta: Document = {"content": text} if text else {}
        reason: str | None = None
        if generation.finish_reason and end == len(generation.tokens):
            message, reason = self._message(generation)
            if self.request.offered_tools:
                delta = message
            for place, call in enumerate(message.get("tool_calls", ())):
                call["index"] = place
        if begin == 0:
            delta = {"role": "assistant", "content": "", **delta}
        return {
            "delta": delta,
            "logprobs": self._logprobs(generation, begin, end),
            "finish_reason": reason,
            **self._ids(generation.tokens[begin:end]),
        }

    def _message(self, generation: Generation) -> tuple[Document, str | None]:
        text = self._text(generation.tokens)
        rest, calls = split_tool_calls(text) if self.request.offered_tools else (text, [])
        if not calls:
            return {"content": text}, generation.finish_reason
        made = [{"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": call} for call in calls]
        return {"content": rest or None, "tool_calls": made}, "tool_calls"

    def _logprobs(self, generation: Generation, begin: int, end: int) -> Document | None:
        if not self.request.logprobs:
            return None
        tokens = []
        for token, logprob in zip(generation.tokens[begin:end], generation.logprobs[begin:end], strict=True):
            text = self._tokenizer.decode([token])
            tokens.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
        return {"content": tokens}

    def _prompt_ids(self) -> Document:
        return {"prompt_token_ids": self.prompts[0]}


class CompletionAnswer(Answer[CompletionRequest]):
    """An answer to a request for completions."""

    _prefix = "cmpl"
    _whole = _part = "text_completion"

    def __init__(self, request: CompletionRequest, sampler: Sampler) -> None:
        super().__init__(request, sampler)
        self.prompts = [
            self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in request.prompts()
        ]

    def _choice(self, generation: Generation) -> Document:
        return self._delta(generation, 0, len(generation.tokens), self._text(generation.tokens))

    def _delta(self, generation: Generation, begin: int, end: int, text: str) -> Document:
        wants_prompt = self.request.return_token_ids and begin == 0
        return {
            "text": text,
            "logprobs": self._logprobs(generation, begin, end),
            "finish_reason": generation.finish_reason if end == len(generation.tokens) else None,
            **({"prompt_token_ids": list(generation.prompt)} if wants_prompt else {}),
            **self._ids(generation.tokens[begin:end]),
        }

    def _logprobs(self, generation: Generation, begin: int, end: int) -> Document | None:
        if self.request.logprobs is None:
            return None
        return {
            "tokens": [self._tokenizer.decode([token]) for token in generation.tokens[begin:end]],
            "token_logprobs": generation.logprobs[begin:end],
            "top_logprobs": None,
            "text_offset": [],
        }

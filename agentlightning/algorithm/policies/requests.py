"""Requests to the policy server: what they ask for, checked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

Message = dict[str, Any]

# What these ask for would change the answer and is not implemented, so that they are refused and not ignored.
_REFUSED: Final[Mapping[str, Sequence[Any]]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
}


class BadRequest(ValueError):
    """A request that cannot be answered; the message says why."""


class StreamOptions(BaseModel):
    """Options of streams."""

    include_usage: bool = False
    """Whether the stream ends with the numbers of tokens."""


class GenerationRequest(BaseModel):
    """What both kinds of requests have in common. What is unknown is ignored, as clients of other servers send it."""

    model_config = ConfigDict(extra="allow")

    model: str
    """One of the names that the server has."""
    temperature: float | None = Field(default=None, ge=0, le=100)
    """What the logits are divided by; 0 takes the likeliest token."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Only the likeliest tokens that have this probability together are chosen from."""
    n: int = Field(default=1, ge=1, le=128)
    """How many answers to return."""
    seed: int | None = None
    """Makes the choice repeatable."""
    stop: str | list[str] | None = None
    """What ends an answer; it is not part of the text."""
    stream: bool = False
    """Whether to send the answer as it is made."""
    stream_options: StreamOptions | None = None
    """Options of the stream."""
    return_token_ids: bool = False
    """Whether to return the token ids of prompt and answers."""

    def expect_answerable(self) -> None:
        """Checks that nothing is asked for that would have to be ignored.

        Raises:
            BadRequest: Something is.
        """
        for name, harmless in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value not in harmless:
                raise BadRequest(f"{name}={value!r} is not supported by this server; leave it out")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(text for text in self.stop or () if text)


class ChatRequest(GenerationRequest):
    """A request for chat completions."""

    messages: list[Message] = Field(min_length=1)
    """The conversation."""
    tools: list[dict[str, Any]] | None = None
    """The tools that the model may call."""
    tool_choice: Any = None
    """`none` keeps the tools from the model; others are left to it."""
    max_tokens: int | None = Field(default=None, ge=1)
    """After how many tokens the answer ends."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of `max_tokens`."""
    logprobs: bool | None = None
    """Whether to return the log-probability of each token."""
    top_logprobs: int | None = None
    """Not supported above 0."""

    def expect_answerable(self) -> None:
        super().expect_answerable()
        if self.top_logprobs:
            raise BadRequest("top_logprobs is not supported by this server: only chosen tokens have log-probabilities")

    @property
    def most_tokens(self) -> int | None:
        """After how many tokens the answer is to end, if that is asked for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model is shown."""
        return None if self.tool_choice == "none" else self.tools or None

    def conversation(self) -> list[Message]:
        """Returns the messages as chat templates expect them: contents are texts, arguments of tool calls objects.

        Raises:
            BadRequest: A message has parts that are no text.
        """
        return [_message(message) for message in self.messages]


class CompletionRequest(GenerationRequest):
    """A request for completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    """One or more texts, or token ids, to go on from."""
    max_tokens: int | None = Field(default=16, ge=1)
    """After how many tokens the answer ends."""
    logprobs: int | None = None
    """0 returns the log-probability of each token."""

    def expect_answerable(self) -> None:
        super().expect_answerable()
        if self.logprobs and self.logprobs > 1:
            raise BadRequest(
                f"logprobs={self.logprobs} is not supported by this server: only chosen tokens have log-probabilities"
            )

    @property
    def most_tokens(self) -> int | None:
        """After how many tokens the answer is to end, if that is asked for."""
        return self.max_tokens

    def prompts(self) -> list[str | list[int]]:
        """Returns the prompts."""
        several: list[Any] = self.prompt if isinstance(self.prompt, list) else [self.prompt]
        return [several] if not several or isinstance(several[0], int) else several


@dataclass(frozen=True)
class ServedModel:
    """A name that the policy is served by, and what its calls get that ask for nothing else."""

    temperature: float
    """Temperature."""
    max_tokens: int
    """After how many tokens an answer ends."""
    top_p: float = 1.0
    """Only the likeliest tokens that have this probability together are chosen from."""


def _message(message: Message) -> Message:
    known = dict(message)
    content = known.get("content")
    if isinstance(content, list):
        if other := {part.get("type") for part in content} - {"text"}:
            raise BadRequest(f"messages may hold text only, not {', '.join(map(str, sorted(other, key=str)))}")
        known["content"] = "".join(part["text"] for part in content)
    elif content is None:
        known["content"] = ""
    if known.get("tool_calls"):
        known["tool_calls"] = [_tool_call(call) for call in known["tool_calls"]]
    return known


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    # Templates write arguments as JSON themselves.
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"] or "{}")
        except ValueError as error:
            raise BadRequest(f"the arguments of the tool call {function.get('name')!r} are no JSON") from error
    return {**call, "function": function}

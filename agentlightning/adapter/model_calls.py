"""What a span says about one call of a model, whichever instrumentation wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from agentlightning.types import Span, Triplet

__all__ = ["ChatMessage", "Dialect", "ModelCall", "merged", "triplet_of", "why_incomplete"]

ChatMessage = dict[str, Any]
"""A message in the form of OpenAI's chat API."""


@dataclass(frozen=True, kw_only=True)
class ModelCall:
    """One call of a model. What the spans of the call do not say is empty."""

    dialects: tuple[str, ...] = ()
    """The dialects that it was read in."""
    prompt_token_ids: list[int] = field(default_factory=list)
    """Token ids of the prompt."""
    response_token_ids: list[int] = field(default_factory=list)
    """Token ids of the first choice."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """For each token of the first choice its `logprob`, natural logarithm, and often the `token` as text."""
    messages: list[ChatMessage] = field(default_factory=list)
    """The prompt."""
    unrecorded_messages: int = 0
    """How many messages of the prompt are known to be missing in `messages`."""
    choices: list[ChatMessage] = field(default_factory=list)
    """The responses, one for each choice, each with its `finish_reason` where that is known."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """The tools that the model was offered, in the form of OpenAI's chat API."""
    request: dict[str, Any] = field(default_factory=dict)
    """The parameters of the request: model, temperature, ..."""
    response: dict[str, Any] = field(default_factory=dict)
    """What the response says besides its choices: id, model, ..."""
    streamed: bool = False
    """Whether the response is known to have come as a stream."""
    whole_response: bool = False
    """Whether the response was recorded as it came, and not only what the instrumentation knows of."""
    unreadable: tuple[str, ...] = ()
    """The attributes that should hold token ids and hold something else."""

    @property
    def response_id(self) -> str | None:
        """The id that the endpoint gave the response."""
        response_id = self.response.get("id")
        return response_id if isinstance(response_id, str) and response_id else None

    @property
    def model(self) -> str | None:
        """The model that answered, or else the one that was asked."""
        return self.response.get("model") or self.request.get("model")

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended."""
        return self.choices[0].get("finish_reason") if self.choices else None

    @property
    def is_complete(self) -> bool:
        """Whether the token ids of both sides are known."""
        return bool(self.prompt_token_ids and self.response_token_ids)


@dataclass(frozen=True)
class Dialect:
    """The way in which some instrumentations write model calls."""

    name: str
    """What people call it."""
    recognises: Callable[[Span], bool]
    """Whether a span is a model call in this dialect."""
    read: Callable[[Span], ModelCall]
    """Reads a span that it recognises. Values of unexpected forms are left out; nothing is raised for them."""


def merged(first: ModelCall, second: ModelCall) -> ModelCall:
    """Returns one call of two records of it: what `first` does not say is taken from `second`."""
    values = {each.name: getattr(first, each.name) or getattr(second, each.name) for each in fields(ModelCall)}
    values["request"] = {**second.request, **first.request}
    values["response"] = {**second.response, **first.response}
    values["unrecorded_messages"] = (first if first.messages else second).unrecorded_messages
    # Log-probabilities belong to the tokens that they were recorded with.
    if first.response_token_ids and not first.logprobs and len(second.logprobs) != len(first.response_token_ids):
        values["logprobs"] = []
    values["dialects"] = (*first.dialects, *(name for name in second.dialects if name not in first.dialects))
    return replace(first, **values)


def triplet_of(call: ModelCall, span: Span, **metadata: Any) -> Triplet:
    """Returns the triplet of a call, without a reward.

    Args:
        call: What is known of the call.
        span: The span that it was read from.
        metadata: What else to note.

    Returns:
        `prompt` has `token_ids`, `raw_content` (the messages, or None) and `image_urls`; `response` has `token_ids`,
        `raw_content` (the choices, or None) and, where they were recorded, `logprobs`: an object with `logprob` for
        each token. `metadata` has `request`, `response` and `response_id`, and, where token ids are missing,
        `diagnosis`, which says why.
    """
    noted = {
        "request": call.request or None,
        "response": call.response or None,
        "response_id": call.response_id,
        **metadata,
    }
    if diagnosis := why_incomplete(call, span):
        noted["diagnosis"] = diagnosis
    return Triplet(
        prompt={
            "token_ids": call.prompt_token_ids,
            "raw_content": call.messages or None,
            "image_urls": _image_urls(call.messages),
        },
        response={
            "token_ids": call.response_token_ids,
            "raw_content": call.choices or None,
            **({"logprobs": call.logprobs} if call.logprobs else {}),
        },
        metadata=noted,
    )


def why_incomplete(call: ModelCall, span: Span) -> str | None:
    """Returns why a call has no token ids, for a person to act on; None if it has those of both sides.

    Args:
        call: What is known of the call.
        span: The span that it was read from.
    """
    if call.is_complete:
        return None
    if span.status.status_code == "ERROR":
        return f"the model call failed: {_failure(span)}"
    if call.unreadable:
        return f"what {' and '.join(call.unreadable)} holds is no list of token ids"
    if call.prompt_token_ids:
        missing = "no token ids of the response"
    elif call.response_token_ids:
        missing = "no token ids of the prompt"
    else:
        missing = "no token ids"
    if call.whole_response:
        return (
            f"the response that came from the endpoint carries {missing}: it was not asked for them, or cannot give "
            "them; vLLM 0.10.2 and later does with extra_body={'return_token_ids': True}"
        )
    if call.streamed:
        return f"the response was streamed, and its record carries {missing}"
    return (
        f"the span carries {missing}: send model calls through the LLM proxy, or record them with the OpenInference "
        "instrumentation and extra_body={'return_token_ids': True}"
    )


def _image_urls(messages: list[ChatMessage]) -> list[str]:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    images = [part.get("image_url") for part in parts if part.get("type") == "image_url"]
    urls = [image.get("url") if isinstance(image, dict) else image for image in images]
    return [url for url in urls if isinstance(url, str)]


def _failure(span: Span) -> str:
    if span.status.description:
        return span.status.description
    for event in span.events:
        if event.name == "exception":
            return f"{event.attributes.get('exception.type')}: {event.attributes.get('exception.message')}"
    return "its span has the status ERROR"

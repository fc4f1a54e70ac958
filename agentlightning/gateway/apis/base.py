"""What the gateway has to know of an API to forward and record its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias

from agentlightning.gateway.json_edit import Rules

Document: TypeAlias = dict[str, Any]
"""A JSON object."""
Message: TypeAlias = dict[str, Any]
"""A message in the form of OpenAI's chat API."""
Protocol: TypeAlias = Literal["openai", "anthropic"]
"""Whose API a backend speaks."""
Extra: TypeAlias = Literal["token_ids", "logprobs", "usage"]
"""What the gateway asks backends for beside what the agent asked for."""

EXTRAS: Final[tuple[Extra, ...]] = ("token_ids", "logprobs", "usage")
"""In the order in which a backend may do without them, what is least widely understood first."""


@dataclass
class Prompt:
    """What a request says, for the record."""

    messages: list[Message] = field(default_factory=list)
    """The messages, those of the system first."""
    tools: list[Document] = field(default_factory=list)
    """The tools that the model is offered, in the form of OpenAI's chat API."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters by the names of OpenTelemetry's conventions: `temperature`, `max_tokens`, ..."""


@dataclass
class Choice:
    """One of the responses to a request."""

    message: Message = field(default_factory=lambda: {"role": "assistant", "content": None})
    """The response."""
    finish_reason: str | None = None
    """Why it ended; None if it has not."""
    token_ids: list[int] = field(default_factory=list)
    """Its tokens, if the backend gives them."""
    logprobs: list[float] = field(default_factory=list)
    """Natural logarithm of the probability of each token."""


@dataclass
class Answer:
    """What a backend answered, as far as it has come."""

    id: str | None = None
    """The id of the response."""
    model: str | None = None
    """The model as the backend calls it."""
    choices: list[Choice] = field(default_factory=list)
    """The responses, in the order of their indices."""
    prompt_token_ids: list[int] = field(default_factory=list)
    """The prompt's tokens, if the backend gives them."""
    usage: dict[str, int] = field(default_factory=dict)
    """`input_tokens` and `output_tokens`, as far as the backend counts them."""
    error: str | None = None
    """What went wrong, as the answer itself says."""


class Reader:
    """Reads an answer of an API. It never raises for answers of unexpected forms: it leaves out what it cannot read."""

    def read_document(self, document: Document) -> None:
        """Takes an answer that came whole."""
        raise NotImplementedError

    def read_event(self, document: Document) -> bool:
        """Takes the next event of a stream.

        Returns:
            Whether the agent may take this event for the end of the answer.
        """
        raise NotImplementedError

    def answer(self) -> Answer:
        """Returns what has come so far."""
        raise NotImplementedError


class Api:
    """One path of an API."""

    name: ClassVar[str]
    """Name of the spans of its calls."""
    path: ClassVar[str]
    """The path below the version."""
    protocol: ClassVar[Protocol]
    """Whose API it is part of."""
    speakers: ClassVar[tuple[Protocol, ...]] = ("openai",)
    """Backends of which protocols can serve it, the best first."""
    operation: ClassVar[str | None] = None
    """`gen_ai.operation.name` of its calls; None for calls that are no use of a model and are not recorded."""
    generates: ClassVar[bool] = True
    """Whether what it returns comes out of a language model token by token."""

    def asks(self, request: Document) -> Mapping[Extra, Document]:
        """Returns what can be asked for beside what `request` asks: for each extra the members to set."""
        return {}

    def hides(self, request: Document, extras: Sequence[Extra]) -> Rules:
        """Returns what an answer has only because `extras` were asked for."""
        return {}

    def drops(self, event: Document, extras: Sequence[Extra]) -> bool:
        """Returns whether a whole event of a stream came only because `extras` were asked for."""
        return False

    def prompt(self, request: Document) -> Prompt:
        """Reads a request, as far as it has the expected form."""
        return Prompt(parameters=common_parameters(request))

    def reader(self, request: Document) -> Reader:
        """Returns a reader for the answer."""
        raise NotImplementedError


_PARAMETERS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n": "choice.count",
}


def common_parameters(request: Document) -> dict[str, Any]:
    """Returns the parameters of a request by the names of OpenTelemetry's conventions."""
    found: dict[str, Any] = {
        ours: request[theirs]
        for theirs, ours in _PARAMETERS.items()
        if isinstance(request.get(theirs), (int, float)) and request[theirs] is not False
    }
    stop = request.get("stop", request.get("stop_sequences"))
    if stop:
        found["stop_sequences"] = [stop] if isinstance(stop, str) else [str(each) for each in listed(stop)]
    return found


def listed(value: Any) -> list[Any]:
    """Returns a list as it is, and nothing of anything else."""
    return value if isinstance(value, list) else []


def named(value: Any) -> Document:
    """Returns a dictionary as it is, and nothing of anything else."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    """Returns a string that says something, else None."""
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """Returns a whole number, else None."""
    return value if type(value) is int else None


def token_ids(value: Any) -> list[int]:
    """Returns a list of whole numbers, and nothing of anything else."""
    ids = listed(value)
    return ids if set(map(type, ids)) == {int} else []


def error_text(document: Document) -> str | None:
    """Returns what an answer says went wrong, if it is one that says so."""
    error = document.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error) if error else None

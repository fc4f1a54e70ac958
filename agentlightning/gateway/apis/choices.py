"""Answers of OpenAI's chat and completions APIs, whole and in streams, as vLLM extends them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from agentlightning.gateway.apis.base import (
    Answer,
    Choice,
    Document,
    Reader,
    count,
    error_text,
    listed,
    named,
    text,
    token_ids,
)


@dataclass
class _Parts:
    """A choice as it grows: texts in pieces, since joining them at each step would cost the square of their length."""

    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    fields: Document = field(default_factory=dict)
    calls: dict[int, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    finish_reason: str | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def choice(self) -> Choice:
        message: Document = {"role": "assistant", "content": None, **self.fields}
        message.update({name: "".join(pieces) for name, pieces in self.texts.items()})
        if self.calls:
            message["tool_calls"] = [_tool_call(self.calls[index]) for index in sorted(self.calls)]
        return Choice(message, self.finish_reason, self.token_ids, self.logprobs)


class ChoicesReader(Reader):
    """Reads answers that have `choices`.

    Args:
        choices: How many choices were asked for.
    """

    def __init__(self, choices: Any) -> None:
        self._expected = max(1, count(choices) or 1)
        self._id: str | None = None
        self._model: str | None = None
        self._parts: dict[int, _Parts] = defaultdict(_Parts)
        self._prompt_token_ids: list[int] = []
        self._usage: Document = {}
        self._error: str | None = None

    def read_document(self, document: Document) -> None:
        self._read(document)

    def read_event(self, document: Document) -> bool:
        self._read(document)
        finished = sum(parts.finish_reason is not None for parts in self._parts.values())
        return finished >= self._expected or self._error is not None

    def answer(self) -> Answer:
        return Answer(
            id=self._id,
            model=self._model,
            choices=[self._parts[index].choice() for index in sorted(self._parts)],
            prompt_token_ids=self._prompt_token_ids,
            usage=usage_counts(self._usage, "prompt_tokens", "completion_tokens"),
            error=self._error,
        )

    def _read(self, document: Document) -> None:
        self._id = self._id or text(document.get("id"))
        self._model = self._model or text(document.get("model"))
        self._error = self._error or error_text(document)
        self._usage = named(document.get("usage")) or self._usage
        self._prompt_token_ids = self._prompt_token_ids or token_ids(document.get("prompt_token_ids"))
        for position, each in enumerate(listed(document.get("choices"))):
            choice = named(each)
            index = count(choice.get("index"))
            self._read_choice(self._parts[position if index is None else index], choice)

    def _read_choice(self, parts: _Parts, choice: Document) -> None:
        self._prompt_token_ids = self._prompt_token_ids or token_ids(choice.get("prompt_token_ids"))
        parts.token_ids += token_ids(choice.get("token_ids"))
        parts.logprobs += _logprobs(named(choice.get("logprobs")))
        parts.finish_reason = text(choice.get("finish_reason")) or parts.finish_reason
        if "text" in choice:
            _read_message(parts, {"content": choice["text"]})
        _read_message(parts, named(choice.get("delta")) or named(choice.get("message")))


def usage_counts(usage: Document, input_name: str, output_name: str) -> dict[str, int]:
    """Returns the counts of tokens under the names of OpenTelemetry's conventions."""
    counts = {"input_tokens": count(usage.get(input_name)), "output_tokens": count(usage.get(output_name))}
    return {name: value for name, value in counts.items() if value is not None}


def _read_message(parts: _Parts, message: Document) -> None:
    for name, value in message.items():
        if name == "tool_calls":
            for position, each in enumerate(listed(value)):
                _read_tool_call(parts, position, named(each))
        elif isinstance(value, str) and name != "role":
            parts.texts[name].append(value)
        elif value is not None:
            parts.fields[name] = value


def _read_tool_call(parts: _Parts, position: int, call: Document) -> None:
    index = count(call.get("index"))
    pieces = parts.calls[position if index is None else index]
    function = named(call.get("function"))
    for name, value in (("id", call.get("id")), ("name", function.get("name"))):
        if isinstance(value, str) and not pieces[name]:
            pieces[name].append(value)
    if isinstance(function.get("arguments"), str):
        pieces["arguments"].append(function["arguments"])


def _tool_call(pieces: dict[str, list[str]]) -> Document:
    function = {name: "".join(pieces[name]) for name in ("name", "arguments")}
    return {"id": "".join(pieces["id"]), "type": "function", "function": function}


def _logprobs(recorded: Document) -> list[float]:
    if isinstance(tokens := recorded.get("content"), list):
        values = [named(token).get("logprob") for token in tokens]
    else:
        values = listed(recorded.get("token_logprobs"))
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    return numbers if len(numbers) == len(values) else []

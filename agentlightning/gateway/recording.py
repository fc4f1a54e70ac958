"""The record of a model call: a span with its typed `generation` and the attributes that adapters read."""

from __future__ import annotations

import json
import secrets
import time
from array import array
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from agentlightning.codec.generation import (
    MODEL,
    MODEL_VERSION,
    PROMPT_TOKEN_IDS,
    RESPONSE_LOGPROBS,
    RESPONSE_TOKEN_IDS,
)
from agentlightning.gateway.apis.base import Answer, Api, Choice, Document, Message, Prompt, listed
from agentlightning.gateway.backends import Backend
from agentlightning.types import OtelResource, Span, TraceStatus

Outcome: TypeAlias = Literal["completed", "failed", "cut", "cancelled"]
"""How a call ended.

`completed`: the backend answered, were it with an error. `failed`: no answer began. `cut`: the answer broke off.
`cancelled`: the agent hung up.
"""

PREFIX: Final = "agentlightning.gateway."
"""Begins the names of the attributes that are the gateway's own."""

_RESOURCE: Final = {"service.name": "agentlightning-gateway"}


@dataclass
class CallRecord:
    """What is noted of one call while it is under way."""

    api: Api
    """What was called."""
    attempt: tuple[str, str]
    """Rollout and attempt that made the call."""
    request: Document
    """The request as the agent sent it."""
    start_time: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    backend: Backend | None = None
    """Where the call went."""
    model_version: str | None = None
    """Version of the weights when the call went there."""
    held_seconds: float = 0.0
    """How long the gateway was paused meanwhile."""
    first_chunk_time: float | None = None
    """When the first part of a stream came, in seconds since the epoch."""
    retries: int = 0
    """How often the call was sent again."""
    status: int | None = None
    """The HTTP status of the answer."""
    outcome: Outcome = "failed"
    """How it ended."""
    error: str | None = None
    """What went wrong."""

    def span(self, sequence_id: int, answer: Answer) -> Span:
        """Returns the span of the call, which has ended now.

        Args:
            sequence_id: The number that was reserved when the call started.
            answer: What the backend answered.
        """
        error = _storable(self.error or answer.error)
        return Span.from_attributes(
            attributes={**self._attributes(answer), **self._generation(answer)},
            rollout_id=self.attempt[0],
            attempt_id=self.attempt[1],
            sequence_id=sequence_id,
            name=self.api.name,
            trace_id=secrets.token_hex(16),
            start_time=self.start_time,
            end_time=time.time(),
            resource=OtelResource(attributes=dict(_RESOURCE), schema_url=""),
            status=TraceStatus(status_code="ERROR", description=error) if error else TraceStatus(status_code="OK"),
        )

    def _attributes(self, answer: Answer) -> dict[str, Any]:
        prompt = self.api.prompt(self.request)
        reasons = [choice.finish_reason for choice in answer.choices if choice.finish_reason]
        found: dict[str, Any] = {
            "gen_ai.operation.name": self.api.operation,
            "gen_ai.provider.name": self.backend.protocol if self.backend else self.api.protocol,
            "gen_ai.request.model": str(self.request.get("model")),
            **{f"gen_ai.request.{name}": value for name, value in prompt.parameters.items()},
            "gen_ai.request.stream": True if self.request.get("stream") else None,
            "gen_ai.response.id": answer.id,
            "gen_ai.response.model": answer.model,
            "gen_ai.response.finish_reasons": reasons or None,
            **{f"gen_ai.usage.{name}": value for name, value in answer.usage.items()},
            "http.response.status_code": self.status,
            "error.type": (str(self.status) if self.status and self.status >= 400 else self.outcome)
            if self.error or answer.error
            else None,
            f"{PREFIX}outcome": self.outcome,
            f"{PREFIX}retries": self.retries,
            f"{PREFIX}held_seconds": self.held_seconds or None,
            f"{PREFIX}seconds_to_first_chunk": (
                self.first_chunk_time - self.start_time if self.first_chunk_time is not None else None
            ),
            **_server(self.backend),
            **_contents(prompt, answer.choices),
        }
        return {name: _storable(value) for name, value in found.items() if value is not None}

    def _generation(self, answer: Answer) -> dict[str, Any]:
        if not self.api.generates:
            return {}
        found: dict[str, Any] = {
            MODEL: answer.model or (self.backend.model if self.backend else None),
            MODEL_VERSION: self.model_version,
        }
        # An answer that broke off has ended where no model ended it, and the agent did not get it.
        if self.outcome in ("completed", "cancelled"):
            found[PROMPT_TOKEN_IDS] = answer.prompt_token_ids
            for index, choice in enumerate(answer.choices):
                prefix = f"{PREFIX}choices.{index}." if index else ""
                found[f"{prefix}{RESPONSE_TOKEN_IDS}"] = choice.token_ids
                found[f"{prefix}{RESPONSE_LOGPROBS}"] = _logprobs(choice)
        return {name: value for name, value in found.items() if value}


def _storable(value: Any) -> Any:
    """Returns a text without halves of surrogate pairs, which JSON can carry and the store cannot."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _logprobs(choice: Choice) -> list[float]:
    # Without ids they are of use to people; beside ids they must be theirs, one for each.
    if choice.token_ids and len(choice.logprobs) != len(choice.token_ids):
        return []
    # The record has single precision, in which engines compute them.
    return array("f", choice.logprobs).tolist()


def _server(backend: Backend | None) -> dict[str, Any]:
    if backend is None:
        return {}
    parts = urlsplit(backend.url)
    return {"server.address": parts.hostname, "server.port": parts.port}


def _contents(prompt: Prompt, choices: list[Choice]) -> dict[str, Any]:
    messages = [_parts_message(message) for message in prompt.messages]
    answers = [{**_parts_message(each.message), "finish_reason": each.finish_reason or ""} for each in choices]
    recorded = {
        "gen_ai.input.messages": messages,
        "gen_ai.output.messages": answers,
        "gen_ai.tool.definitions": prompt.tools,
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in recorded.items() if value}


def _parts_message(message: Message) -> Document:
    """Returns a message as OpenTelemetry's conventions have it; parts that they do not know are kept as they are."""
    parts: list[Document] = []
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        parts.append({"type": "reasoning", "content": reasoning})
    content = message.get("content")
    if message.get("role") == "tool":
        response = "".join(_part(part).get("content", "") for part in content) if isinstance(content, list) else content
        parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": response})
    elif isinstance(content, str):
        parts.append({"type": "text", "content": content})
    elif isinstance(content, list):
        parts += [_part(part) for part in content]
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    parts += [_tool_call_part(call) for call in listed(message.get("tool_calls"))]
    name = {"name": message["name"]} if isinstance(message.get("name"), str) else {}
    return {"role": message.get("role", "user"), **name, "parts": parts}


def _part(part: Any) -> Document:
    if not isinstance(part, dict):
        return {"type": "text", "content": str(part)}
    return {"type": "text", "content": part.get("text", "")} if part.get("type") == "text" else part


def _tool_call_part(call: Any) -> Document:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return {"type": "tool_call", "name": str(call)}
    # Arguments stay the text that the model wrote.
    fields = {"name": function.get("name"), "arguments": function.get("arguments")}
    return {"type": "tool_call", "id": call.get("id"), **fields}

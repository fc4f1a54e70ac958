"""Spans of AgentOps, of Traceloop's older instrumentations and of LiteLLM: messages as numbered attributes.

`gen_ai.prompt.0.content` is the first message of the prompt, `gen_ai.completion.0.content` the first choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentlightning.adapter.chat import chat_messages, function_tool
from agentlightning.adapter.model_calls import Dialect, ModelCall
from agentlightning.adapter.parsing import nested, numbered
from agentlightning.types import Span

__all__ = ["NUMBERED", "agentops_kind"]

_MESSAGES = re.compile(r"gen_ai\.(prompt|completion)(\.\d+\..*)?")
_PROMPT_NUMBER = re.compile(r"gen_ai\.prompt\.(\d{1,9})\.")
_REQUEST_TYPES = frozenset({"chat", "completion"})


def agentops_kind(attributes: Mapping[str, Any]) -> str:
    """Returns what AgentOps takes a span for: `agent`, `llm`, `tool`, ...; empty if it did not write it."""
    # Written as `llm` in some places and as `AgentOpsSpanKindValues.LLM` in others.
    return str(attributes.get("agentops.span.kind", "")).rsplit(".", 1)[-1].lower()


def _recognises(span: Span) -> bool:
    attributes = span.attributes
    if agentops_kind(attributes) == "llm":
        return True
    kinds = (attributes.get("gen_ai.request.type"), attributes.get("llm.request.type"))
    return not _REQUEST_TYPES.isdisjoint(map(str, kinds)) or any(_MESSAGES.fullmatch(key) for key in attributes)


def _read(span: Span) -> ModelCall:
    attributes = span.attributes
    functions = numbered(nested(attributes, "gen_ai.request.functions") or nested(attributes, "llm.request.functions"))
    messages = _messages(attributes, "gen_ai.prompt", "user")
    return ModelCall(
        messages=messages,
        # AgentOps leaves out messages that the agent gave as objects of the client library.
        unrecorded_messages=max(0, _last_number(attributes) + 1 - len(messages)),
        choices=_messages(attributes, "gen_ai.completion", "assistant"),
        tools=[tool for each in functions if (tool := function_tool(each)) is not None],
    )


def _last_number(attributes: Mapping[str, Any]) -> int:
    return max((int(match.group(1)) for key in attributes if (match := _PROMPT_NUMBER.match(key))), default=-1)


def _messages(attributes: dict[str, Any], name: str, role: str) -> list[dict[str, Any]]:
    written = attributes.get(name)
    recorded = nested(attributes, name)
    # One attribute with a text that is no structure is the message itself.
    return chat_messages([written] if recorded is None and isinstance(written, str) else recorded, role)


NUMBERED = Dialect("AgentOps and Traceloop", _recognises, _read)

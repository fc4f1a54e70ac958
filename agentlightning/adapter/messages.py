"""Model calls as conversations in the form of OpenAI's chat API."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from agentlightning.adapter.base import TraceAdapter
from agentlightning.adapter.chat import as_text, tool_call
from agentlightning.adapter.model_calls import ChatMessage
from agentlightning.adapter.trace_tree import LocatedCall, TraceTree
from agentlightning.types import Span

__all__ = ["OpenAIMessages", "TraceToMessages"]

logger = logging.getLogger(__name__)

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_FIELDS = ("name", "tool_call_id", "tool_calls", "refusal")
_TOOL_CALL_IDS = ("tool.call.id", "gen_ai.tool.call.id", "tool_call.id", "tool.id")
_TOOL_ARGUMENTS = ("tool.parameters", "gen_ai.tool.call.arguments", "input.value")


class OpenAIMessages(TypedDict):
    """One call of a model, in the form of OpenAI's chat API."""

    messages: list[ChatMessage]
    """The messages of the prompt, and last the response."""
    tools: list[dict[str, Any]] | None
    """The tools that the model was offered; None if there were none."""


class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """Makes a conversation of each model call of a trace, in every known dialect.

    A call with several choices gives a conversation for each. Contents in several parts, such as images, are kept.
    Calls whose messages were not recorded give none; those that the chat API would not accept are left out with a
    warning.
    """

    def adapt(self, source: Sequence[Span], /) -> list[OpenAIMessages]:
        """Returns the conversations of the spans of one attempt, in the order of the spans."""
        if not source:
            return []
        position = {id(span): index for index, span in enumerate(source)}
        calls = TraceTree.from_spans(source).find_model_calls(
            within_llm_call=False, existing_llm_call_response_ids=set()
        )
        conversations: list[OpenAIMessages] = []
        faults: list[str] = []
        for located in sorted(calls, key=lambda each: position[id(each.node.span)]):
            span, call = located.node.span, located.call
            try:
                conversations += _conversations(located)
            except ValueError as error:
                faults.append(f"span {span.name!r} ({span.span_id}) is left out: {error}")
                continue
            if call.unrecorded_messages:
                faults.append(f"span {span.name!r} ({span.span_id}) lacks messages: {call.unrecorded_messages}")
        if faults:
            logger.warning("rollout %s, attempt %s: %s", source[0].rollout_id, source[0].attempt_id, "; ".join(faults))
        return conversations

    def get_tool_calls(self, completion: Span, all_spans: Sequence[Span], /) -> list[dict[str, Any]]:
        """Returns the calls of tools that a model asked for and that were recorded as children of its span.

        Args:
            completion: The span of the model call.
            all_spans: The spans of the attempt.
        """
        parent = (completion.trace_id, completion.span_id)
        return list(_tool_calls(span for span in all_spans if (span.trace_id, span.parent_id) == parent))


def _conversations(located: LocatedCall) -> list[OpenAIMessages]:
    call = located.call
    if not call.messages and not call.choices:
        return []
    choices = [dict(choice) for choice in call.choices]
    asked_for = list(_tool_calls(node.span for node in located.node if node is not located.node))
    if asked_for and not any(choice.get("tool_calls") for choice in choices):
        choices[:1] = [
            {"role": "assistant", "content": None, **(choices[0] if choices else {}), "tool_calls": asked_for}
        ]
    prompt = [_accepted(message) for message in call.messages]
    # A call that failed has a prompt and no response.
    responses = [[_accepted(choice)] for choice in choices] or [[]]
    return [OpenAIMessages(messages=[*prompt, *response], tools=call.tools or None) for response in responses]


def _accepted(message: ChatMessage) -> ChatMessage:
    """Returns a message as the chat API accepts it; ValueError if there is no such message."""
    role, content = message["role"], message.get("content")
    if role not in _ROLES:
        raise ValueError(f"a message has the role {role!r}, which the chat API does not know")
    if role == "tool" and not message.get("tool_call_id"):
        raise ValueError("a message of a tool does not say which tool call it answers")
    if content is None:
        content = None if message.get("tool_calls") else ""
    elif not isinstance(content, list):
        content = as_text(content)
    return {"role": role, "content": content, **{key: message[key] for key in _FIELDS if message.get(key)}}


def _tool_calls(spans: Iterator[Span]) -> Iterator[dict[str, Any]]:
    known: set[str] = set()
    for span in spans:
        attributes = span.attributes
        name = attributes.get("tool.name") or attributes.get("gen_ai.tool.name")
        if name is None:
            continue
        call_id = next((attributes[key] for key in _TOOL_CALL_IDS if key in attributes), "")
        arguments = next((attributes[key] for key in _TOOL_ARGUMENTS if key in attributes), "{}")
        # The execution of a tool may be recorded beside the wish for it.
        if not call_id or call_id not in known:
            known.add(str(call_id))
            yield tool_call(call_id, name, arguments)

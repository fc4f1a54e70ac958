"""The legacy models and what the store has for them: a task is a claimed rollout, a report is spans of its attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from agentlightning.codec.generation import GENERATION_ATTRIBUTES, PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS
from agentlightning.codec.payload import to_payload
from agentlightning.emitter.message import emit_message
from agentlightning.emitter.reward import emit_reward, find_final_reward, find_reward_spans
from agentlightning.rest.trace_json import span_of_trace
from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types import (
    Attempt,
    Attributes,
    RolloutLegacy,
    Span,
    SpanCoreFields,
    Triplet,
)
from agentlightning.utils.attributes import flatten_attributes, full_qualified_name, sanitize_attributes, to_json

FAILURE: Final = "agentlightning.failure"
"""Key in the metadata of a report: the agent failed, and this is how, in a sentence."""

MODEL_CALL: Final = "openai.chat.completion"
"""Name of the span of a model call that a client reports as a triplet, the one that adapters look for."""

_OBJECT_TYPE: Final = LightningSpanAttributes.OBJECT_TYPE.value
_OBJECT_JSON: Final = LightningSpanAttributes.OBJECT_JSON.value
_REPORT: Final = full_qualified_name(RolloutLegacy)
_MODEL_CALL_ATTRIBUTES: Final = ("gen_ai.", "llm.")
# What happened when is not reported. One after the other is enough, and a microsecond is what seconds can tell apart.
_STEP: Final = 1e-6
# In the year 2286: where a client's clock says more, it says nothing.
_LAST_MOMENT: Final = 1e10


def report_text(report: RolloutLegacy) -> str:
    """Returns a report as JSON.

    Raises:
        TypeError: Part of it cannot be expressed, such as an infinite number; the message names it.
        ValueError: It is nested too deeply.
    """
    return to_payload(report.model_dump(), "body").data.decode()


def spans_of_report(report: RolloutLegacy, text: str, attempt: Attempt) -> list[Span]:
    """Returns all that a client reports of an attempt as spans.

    The spans of `trace` come first, as far as they are in a form that is known. The triplets follow as model calls with
    their rewards, unless the trace holds the model calls itself. Then come the logs, the whole report as an object, and
    the final reward where it is not what the spans before say. The same report gives the same ids.

    Args:
        report: What the client posted.
        text: The same as JSON.
        attempt: The attempt that it is about.
    """
    spans = [span for entry in report.trace or () if (span := span_of_trace(entry, attempt)) is not None]
    trace_id = hashlib.blake2b(f"{attempt.rollout_id}/{attempt.attempt_id}".encode(), digest_size=16).hexdigest()
    begin = min([attempt.start_time, *[span.start_time for span in spans if span.start_time is not None]])
    end = max([attempt.start_time, *[span.end_time for span in spans if span.end_time is not None]])
    moment = min(end, _LAST_MOMENT)

    def add(name: str, attributes: Attributes, *, at: float | None = None) -> None:
        nonlocal moment
        moment += 2 * _STEP
        start = moment if at is None else at
        spans.append(
            Span.from_attributes(
                attributes=attributes,
                rollout_id=attempt.rollout_id,
                attempt_id=attempt.attempt_id,
                name=name,
                trace_id=trace_id,
                span_id=f"{len(spans) + 1:016x}",
                start_time=start,
                end_time=start + _STEP,
            )
        )

    triplets = [] if any(map(_is_model_call, spans)) else report.triplets or []
    has_rewards = triplets[-1].reward is not None if triplets else bool(find_reward_spans(spans))
    for triplet in triplets:
        add(MODEL_CALL, _call_attributes(triplet))
        if triplet.reward is not None:
            add(*_named(emit_reward(triplet.reward, propagate=False)))
    if report.logs:
        add(*_named(emit_message("\n".join(report.logs), propagate=False)))
    add(AGL_OBJECT, {_OBJECT_TYPE: _REPORT, _OBJECT_JSON: text})
    if report.final_reward is not None and find_final_reward(spans) != report.final_reward:
        # Adapters give a reward to the model call before it that has none. One that is dated before them all is the
        # rollout's alone.
        reward = emit_reward(report.final_reward, propagate=False)
        add(*_named(reward), at=max(0.0, begin - 2 * _STEP) if has_rewards else None)
    return spans


def report_in(spans: Sequence[Span]) -> RolloutLegacy | None:
    """Returns what a client reported of an attempt, just as it was posted.

    Args:
        spans: The spans of the attempt.

    Returns:
        The report; None if the attempt was not reported on over the REST API.
    """
    for span in spans:
        if span.name == AGL_OBJECT and span.attributes.get(_OBJECT_TYPE) == _REPORT:
            return RolloutLegacy.model_validate_json(str(span.attributes[_OBJECT_JSON]))
    return None


def _named(core: SpanCoreFields) -> tuple[str, Attributes]:
    return core.name, core.attributes


def _is_model_call(span: Span) -> bool:
    return any(key.startswith(_MODEL_CALL_ATTRIBUTES) or key in GENERATION_ATTRIBUTES for key in span.attributes)


def _call_attributes(triplet: Triplet) -> Attributes:
    attributes: dict[str, Any] = {
        PROMPT_TOKEN_IDS: _token_ids(triplet.prompt),
        RESPONSE_TOKEN_IDS: _token_ids(triplet.response),
        "gen_ai.response.id": triplet.metadata.get("response_id"),
        "agent.name": triplet.metadata.get("agent_name"),
        **flatten_attributes({"gen_ai.prompt": _messages(triplet.prompt, "user")}),
        **flatten_attributes({"gen_ai.completion": _messages(triplet.response, "assistant")}),
    }
    return sanitize_attributes({key: value for key, value in attributes.items() if value not in (None, [])})


def _token_ids(side: Any) -> list[int] | None:
    ids = side.get("token_ids") if isinstance(side, dict) else None
    return ids if isinstance(ids, list) else None


def _messages(side: Any, role: str) -> list[dict[str, Any]]:
    """Returns the prompt or the response of a triplet as chat messages."""
    content = side.get("raw_content") if isinstance(side, dict) and "token_ids" in side else side
    if content is None:
        return []
    if isinstance(content, list) and all(isinstance(message, dict) for message in content):
        return content
    return [{"role": role, "content": content if isinstance(content, str) else to_json(content)}]

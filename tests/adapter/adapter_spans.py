"""Spans for the tests of adapters: short ones made by hand, and the traces captured from real instrumentations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentlightning.types import Event, Span, TraceStatus

TRACE = "0" * 31 + "1"
ROOT = "root"
TRACES = Path(__file__).parent / "traces"


def span_id(name: str) -> str:
    """An id that says its name: the test reads better with `parent="agent"`."""
    return name.encode().hex()[:16].rjust(16, "0")


def span(
    name: str,
    start: float | None = 0.0,
    end: float | None = None,
    parent: str | None = ROOT,
    *,
    id: str | None = None,
    sequence_id: int = 0,
    trace_id: str = TRACE,
    status: TraceStatus | None = None,
    events: list[Event] | None = None,
    **attributes: Any,
) -> Span:
    """A span that ran from `start` to `end` in the span with the id `parent`; None for a root."""
    made = Span.from_attributes(
        name=name,
        rollout_id="ro-1",
        attempt_id="at-1",
        sequence_id=sequence_id,
        trace_id=trace_id,
        span_id=span_id(id) if id else None,
        parent_id=span_id(parent) if parent else None,
        start_time=start,
        end_time=start if end is None else end,
        attributes=attributes.pop("attributes", {}) | attributes,
        status=status,
    )
    made.events = events or []
    return made


def root(start: float = 0.0, end: float = 100.0) -> Span:
    """The root that spans have for a parent unless told otherwise."""
    return span("root", start, end, None, id=ROOT)


def agent(name: str, start: float, end: float, parent: str | None = ROOT) -> Span:
    """A span around an agent, whose id is its name."""
    return span("agent", start, end, parent, id=name, attributes={"agent.name": name})


def chat(number: int, start: float, end: float, parent: str | None = ROOT, **attributes: Any) -> Span:
    """A complete model call as release 0.3 recorded it: the response id is `c1`, the prompt `q1`, and so on."""
    recorded = {
        "gen_ai.response.id": f"c{number}",
        "gen_ai.response.model": "m",
        "gen_ai.request.model": "m",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": f"q{number}",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": f"a{number}",
        "gen_ai.completion.0.finish_reason": "stop",
        "prompt_token_ids": [1, 2, number],
        "response_token_ids": [3, number],
    }
    return span("openai.chat.completion", start, end, parent, id=f"c{number}", attributes=recorded | attributes)


def reward(value: float, at: float | None, parent: str | None = ROOT, **fields: Any) -> Span:
    """A reward given at one moment."""
    recorded = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value}
    return span("agentlightning.annotation", at, at, parent, attributes=recorded, **fields)


def captured(name: str) -> list[Span]:
    """A trace that a real instrumentation recorded; see `capture_traces.py`."""
    return [Span.model_validate(each) for each in json.loads((TRACES / f"{name}.json").read_text())]

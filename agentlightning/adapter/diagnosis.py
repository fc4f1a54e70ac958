"""Why a trace gives no triplets, or some that nothing can be learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from agentlightning.adapter.dialects import DIALECTS
from agentlightning.adapter.model_calls import why_incomplete
from agentlightning.adapter.trace_tree import ANY_MODEL_CALL, LocatedCall, TraceTree
from agentlightning.emitter.reward import find_reward_spans
from agentlightning.types import Span

__all__ = ["counted", "diagnose", "diagnose_calls", "summed_up"]

_MOST_NAMES = 8


def diagnose(spans: Sequence[Span]) -> list[str]:
    """Returns what keeps an algorithm from learning from a trace, one sentence each; empty if nothing does.

    Looks for model calls, the token ids of each, and rewards.

    Args:
        spans: The spans of one attempt.
    """
    found = diagnose_calls(spans)
    if spans and not find_reward_spans(spans):
        found.append("no span carries a reward: the agent neither returned one nor emitted one")
    return found


def diagnose_calls(
    spans: Sequence[Span], *, llm_call_match: str = ANY_MODEL_CALL, agent_match: str | None = None
) -> list[str]:
    """Returns what is wrong with the model calls of a trace; see `diagnose`.

    Args:
        spans: The spans of one attempt.
        llm_call_match: Which spans are model calls; see `TraceTree.find_model_calls`.
        agent_match: Whose calls are wanted; see `TraceTree.find_model_calls`.
    """
    if not spans:
        return ["there are no spans: the agent made none while its tracer was active, or they were not stored"]
    tree = TraceTree.from_spans(spans)
    tree.repair_hierarchy()
    calls = _calls(tree, llm_call_match, agent_match)
    if calls:
        reasons = [reason for each in calls if (reason := why_incomplete(each.call, each.node.span)) is not None]
        return summed_up(reasons, len(calls))
    if agent_match is not None and (others := _calls(tree, llm_call_match, None)):
        agents = counted(each.agent_name for each in others)
        return [f"no agent around a model call is named like agent_match={agent_match!r}; the calls are of: {agents}"]
    if others := _calls(tree, ANY_MODEL_CALL, None):
        names = counted(each.node.span.name for each in others)
        return [f"no model call is named like llm_call_match={llm_call_match!r}; the calls are named: {names}"]
    dialects = ", ".join(dialect.name for dialect in DIALECTS)
    looked_for = f"looked for the dialects {dialects}, and for {llm_call_match!r} in names"
    advice = "is the client library instrumented, or do its calls go through the LLM proxy?"
    names = counted(span.name for span in spans)
    return [f"none of {len(spans)} spans is a model call ({names}); {looked_for}: {advice}"]


def summed_up(reasons: Iterable[str], total: int) -> list[str]:
    """Returns each reason once, with the number of model calls of `total` that it is true of."""
    return [f"{times} of {total} model calls: {reason}" for reason, times in Counter(reasons).items()]


def counted(items: Iterable[str]) -> str:
    """Returns the items, most frequent first, each with its number: `a x3, b x1`."""
    counts = Counter(items)
    shown = ", ".join(f"{item} x{times}" for item, times in counts.most_common(_MOST_NAMES))
    return shown if len(counts) <= _MOST_NAMES else f"{shown}, ... {len(counts) - _MOST_NAMES} more"


def _calls(tree: TraceTree, llm_call_match: str, agent_match: str | None) -> list[LocatedCall]:
    return tree.find_model_calls(
        llm_call_match=llm_call_match,
        agent_match=agent_match,
        within_llm_call=False,
        existing_llm_call_response_ids=set(),
    )

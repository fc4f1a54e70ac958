"""Adapters that make triplets (prompt, response, reward) of the spans of an attempt."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from agentlightning.adapter.base import TraceToTripletBase
from agentlightning.adapter.diagnosis import counted, diagnose, diagnose_calls, summed_up
from agentlightning.adapter.dialects import LITELLM, is_gateway_span, read_model_call
from agentlightning.adapter.model_calls import ModelCall, triplet_of, why_incomplete
from agentlightning.adapter.reward_matching import RewardMatchPolicy, assigned_rewards
from agentlightning.adapter.trace_tree import ANY_MODEL_CALL, TraceTree
from agentlightning.emitter.reward import get_reward_value
from agentlightning.types import Span, Triplet

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = [
    "LlmProxyTraceToTriplet",
    "RewardMatchPolicy",
    "TraceToTripletBase",
    "TraceTree",
    "TracerTraceToTriplet",
    "diagnose",
]

logger = logging.getLogger(__name__)


class TracerTraceToTriplet(TraceToTripletBase):
    """Makes triplets of what a tracer recorded around the agent: one for each model call, in the order of the tree.

    Model calls are read in every known dialect. A triplet without token ids says why in `metadata["diagnosis"]`, and
    one warning for each trace sums that up.
    """

    def __init__(
        self,
        repair_hierarchy: bool = True,
        llm_call_match: str = ANY_MODEL_CALL,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        _skip_empty_token_spans: bool = False,
    ) -> None:
        r"""Makes the adapter.

        Args:
            repair_hierarchy: Put spans that lost their parent back where their times say they belong.
            llm_call_match: A regular expression to be found in the names of spans that are model calls. The default,
                `openai\.chat\.completion`, also stands for every span in a known dialect, whatever its name.
            agent_match: A regular expression to be found in the name of the nearest agent around a call. None takes
                all calls.
            exclude_llm_call_in_reward: Leave out calls inside a span that carries a reward, as a judge makes them.
            reward_match: Among which calls the one that earned a reward is looked for.
            _skip_empty_token_spans: Leave out calls without token ids.

        Raises:
            ValueError: An expression is none, or there is no such policy.
        """
        for name, expression in (("llm_call_match", llm_call_match), ("agent_match", agent_match)):
            try:
                re.compile(expression or "")
            except re.error as error:
                raise ValueError(f"{name}={expression!r} is no regular expression: {error}") from error
        self.repair_hierarchy = repair_hierarchy
        self.llm_call_match = llm_call_match
        self.agent_match = agent_match
        self.exclude_llm_call_in_reward = exclude_llm_call_in_reward
        self.reward_match = RewardMatchPolicy(reward_match)
        self._skip_empty_token_spans = _skip_empty_token_spans

    def adapt(self, source: Sequence[Span] | Sequence[ReadableSpan], /) -> list[Triplet]:
        """Returns the triplets of the spans of one attempt; none, with a warning, if there is no model call."""
        spans = _as_spans(source)
        triplets = (
            self._tree(spans).to_trajectory(
                llm_call_match=self.llm_call_match,
                agent_match=self.agent_match,
                exclude_llm_call_in_reward=self.exclude_llm_call_in_reward,
                reward_match=self.reward_match,
                _skip_empty_token_spans=self._skip_empty_token_spans,
            )
            if spans
            else []
        )
        reasons = [triplet.metadata["diagnosis"] for triplet in triplets if "diagnosis" in triplet.metadata]
        if reasons:
            _warn(spans, f"triplets without token ids: {'; '.join(summed_up(reasons, len(triplets)))}")
        elif not triplets:
            found = diagnose_calls(spans, llm_call_match=self.llm_call_match, agent_match=self.agent_match)
            _warn(spans, f"no triplets: {'; '.join(found) or 'all model calls are inside spans that carry a reward'}")
        return triplets

    def visualize(
        self,
        source: Sequence[Span] | Sequence[ReadableSpan],
        /,
        filename: str = "trace_tree",
        interested_span_match: str | None = None,
    ) -> TraceTree:
        """Draws the tree that the triplets are made of as `FILENAME.png`.

        Args:
            source: The spans of one attempt.
            filename: Where to put it, without the ending.
            interested_span_match: A regular expression; only spans that it finds in their name are drawn, and those
                around them.

        Returns:
            The tree.

        Raises:
            ImportError: The package `graphviz` is not installed.
            ValueError: There are no spans.
        """
        tree = self._tree(_as_spans(source))
        tree.visualize(filename, interested_span_match)
        return tree

    def _tree(self, spans: Sequence[Span]) -> TraceTree:
        tree = TraceTree.from_spans(spans)
        if self.repair_hierarchy:
            tree.repair_hierarchy()
        return tree


class LlmProxyTraceToTriplet(TraceToTripletBase):
    """Makes triplets of what a model gateway recorded, by the order in which the store numbered the spans.

    Only spans of a gateway count that have the token ids of both sides, and each response counts once. A reward goes
    to the latest call with a lower sequence id that has none yet.
    """

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        """Returns the triplets of the spans of one attempt, by sequence id; none, with a warning, if none is usable."""
        spans = sorted(source, key=lambda span: (span.sequence_id, span.start_time or 0.0))
        recorded = [
            (span, read_model_call(span)) for span in spans if is_gateway_span(span) or LITELLM.recognises(span)
        ]
        complete = _first_of_each_response([(span, call) for span, call in recorded if call.is_complete])
        _warn_of_losses(spans, recorded, {call.response_id for _, call in complete})
        # A reward with the sequence id of a call was not given for that call.
        rewards = assigned_rewards(
            [(span.sequence_id, 1) for span, _ in complete],
            [((span.sequence_id, 0), value) for span in spans if (value := get_reward_value(span)) is not None],
        )
        triplets = [triplet_of(call, span) for span, call in complete]
        for triplet, reward in zip(triplets, rewards, strict=True):
            triplet.reward = reward
        return triplets


def _warn_of_losses(spans: Sequence[Span], recorded: list[tuple[Span, ModelCall]], usable: set[str | None]) -> None:
    if not recorded:
        names = counted(span.name for span in spans)
        _warn(spans, f"no triplets: no span of a model gateway among {len(spans)} spans ({names})")
        return
    # A gateway may record a call in several spans, of which one has the token ids.
    lost = [(span, call) for span, call in recorded if call.response_id not in usable]
    if lost and (not usable or any(call.response_id for _, call in lost)):
        reasons = [reason for span, call in lost if (reason := why_incomplete(call, span)) is not None]
        _warn(spans, f"left out without token ids: {'; '.join(summed_up(reasons, len(recorded)))}")


def _first_of_each_response(calls: list[tuple[Span, ModelCall]]) -> list[tuple[Span, ModelCall]]:
    known: set[str] = set()
    first: list[tuple[Span, ModelCall]] = []
    for span, call in calls:
        if call.response_id is None:
            first.append((span, call))
        elif call.response_id not in known:
            known.add(call.response_id)
            first.append((span, call))
    return first


def _as_spans(source: Sequence[Span] | Sequence[ReadableSpan]) -> list[Span]:
    return [
        span
        if isinstance(span, Span)
        else Span.from_opentelemetry(span, rollout_id="", attempt_id="", sequence_id=index)
        for index, span in enumerate(cast("Sequence[Span | ReadableSpan]", source), 1)
    ]


def _warn(spans: Sequence[Span], what: str) -> None:
    if spans:
        logger.warning("rollout %s, attempt %s: %s", spans[0].rollout_id, spans[0].attempt_id, what)
    else:
        logger.warning(what)

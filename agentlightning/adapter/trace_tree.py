"""The spans of a trace as a tree, and the model calls and rewards in it."""

from __future__ import annotations

import importlib
import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from agentlightning.adapter.dialects import is_model_call, read_model_call
from agentlightning.adapter.dialects.numbered import agentops_kind
from agentlightning.adapter.model_calls import ModelCall, merged, triplet_of
from agentlightning.adapter.reward_matching import RewardMatchPolicy, assigned_rewards
from agentlightning.emitter.reward import get_reward_value
from agentlightning.semconv import AGL_VIRTUAL
from agentlightning.types import Span, Triplet

__all__ = ["ANY_AGENT", "ANY_MODEL_CALL", "LocatedCall", "TraceTree"]

ANY_MODEL_CALL = r"openai\.chat\.completion"
"""The `llm_call_match` that stands for every model call in a known dialect, whatever its span is called."""
ANY_AGENT = "*"
"""The agent that calls belong to where none is named."""

_NO_ID = "0" * 16


@dataclass
class LocatedCall:
    """A model call and where it was found."""

    node: TraceTree
    """The node that stands for it; the outermost of several that record the same call."""
    agent_name: str
    """The nearest agent around it."""
    call: ModelCall
    """What its spans say."""

    @property
    def can_earn(self) -> bool:
        """Whether there is a response that a reward can be for."""
        return self.node.span.status.status_code != "ERROR" or bool(
            self.call.response_token_ids or self.call.choices or self.call.response_id
        )


class TraceTree:
    """A span and the spans in it. Iterating gives all nodes, each before those in it."""

    def __init__(self, id: str, span: Span, children: list[TraceTree] | None = None) -> None:
        self.id = id
        """Unique in a tree made by `from_spans`: the span's id, numbered where the trace has that id again."""
        self.span = span
        """The span."""
        self.children = children or []
        """The nodes directly in it, by start."""

    @classmethod
    def from_spans(cls, spans: Sequence[Span]) -> TraceTree:
        """Makes the tree of the spans of a trace. No span is lost, whatever its parent is.

        Spans whose parent is not among them stand together in a virtual node with the parent's id. Several roots
        stand in a virtual root. Where spans are each other's parents, one of them becomes a root.

        Raises:
            ValueError: There are no spans.
        """
        if not spans:
            raise ValueError("a trace tree needs at least one span: this trace has none")
        times_seen: dict[str, int] = {}

        def node_of(span: Span) -> TraceTree:
            times = times_seen[span.span_id] = times_seen.get(span.span_id, 0) + 1
            return cls(span.span_id if times == 1 else f"{span.span_id}#{times}", span)

        nodes = [node_of(span) for span in spans]
        known = {_key(node.span, node.span.span_id): node for node in reversed(nodes)}
        parents: dict[TraceTree, TraceTree | None] = {}
        stand_ins: dict[TraceTree, None] = {}
        for node in nodes:
            parent_id = node.span.parent_id
            if not parent_id or parent_id == _NO_ID:
                parents[node] = None
                continue
            key = _key(node.span, parent_id)
            if key not in known:
                known[key] = node_of(_virtual_span(node.span, span_id=parent_id))
                stand_ins[known[key]] = parents[known[key]] = None
            parents[node] = known[key]
        _cut_cycles(parents)
        roots: list[TraceTree] = []
        for node, parent in parents.items():
            (roots if parent is None else parent.children).append(node)
        for stand_in in stand_ins:
            _set_times(stand_in.span, [child.span for child in stand_in.children])
        root = roots[0]
        if len(roots) > 1:
            root = node_of(_virtual_span(spans[0]))
            root.children = roots
            _set_times(root.span, spans)
        for node in root:
            node.children.sort(key=_begin)
        return root

    @property
    def start_time(self) -> float | None:
        """When the span began, in seconds since the epoch."""
        return self.span.start_time

    @property
    def end_time(self) -> float | None:
        """When the span ended, in seconds since the epoch."""
        return self.span.end_time

    def __repr__(self) -> str:
        return f"<TraceTree {self.id} {self.span.name!r}, {len(self.children)} children>"

    def __iter__(self) -> Iterator[TraceTree]:
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)

    def traverse(self) -> list[TraceTree]:
        """Returns all nodes, each before those in it."""
        return list(self)

    def find_id(self, id: str) -> TraceTree | None:
        """Returns the node with an id, or None."""
        return next((node for node in self if node.id == id), None)

    def add_child(self, child: TraceTree) -> None:
        """Puts a node into this one, behind the others."""
        self.children.append(child)

    def agent_name(self) -> str | None:
        """Returns the name of the agent that the span stands for, or None if it stands for none."""
        attributes = self.span.attributes
        is_openinference_agent = str(attributes.get("openinference.span.kind")).upper() == "AGENT"
        candidates = (
            attributes.get("agent.name"),
            attributes.get("operation.name") if agentops_kind(attributes) == "agent" else None,
            attributes.get("recipient_agent_type"),
            attributes.get("langchain.chain.type"),
            attributes.get("executor.id"),
            attributes.get("gen_ai.agent.name"),
            attributes.get("traceloop.entity.name") if attributes.get("traceloop.span.kind") == "agent" else None,
            attributes.get("graph.node.id") if is_openinference_agent else None,
            self.span.name if is_openinference_agent else None,
        )
        return next((str(name) for name in candidates if name), None)

    def is_reward_span(self) -> bool:
        """Returns whether the span carries a reward."""
        return get_reward_value(self.span) is not None

    def names_tuple(self) -> tuple[str, list[Any]]:
        """Returns the names of the spans, each with those in it: `("root", [("call", [])])`."""
        built: dict[TraceTree, tuple[str, list[Any]]] = {}
        for node in reversed(self.traverse()):
            built[node] = (_label(node), [built.pop(child) for child in node.children])
        return built[self]

    def to_json(self) -> dict[str, Any]:
        """Returns the tree as `id`, `span` and `children` of each node."""
        built: dict[TraceTree, dict[str, Any]] = {}
        for node in reversed(self.traverse()):
            children = [built.pop(child) for child in node.children]
            built[node] = {"id": node.id, "span": node.span.model_dump(), "children": children}
        return built[self]

    def to_dot(self, interested_span_match: str | None = None) -> str:
        """Returns the tree as a graph in the language of Graphviz.

        Args:
            interested_span_match: A regular expression; only spans that it finds in their name are drawn, and those
                around them.
        """
        nodes = self.traverse()
        drawn: set[TraceTree] = set()
        for node in reversed(nodes):
            if (
                interested_span_match is None
                or re.search(interested_span_match, node.span.name)
                or not drawn.isdisjoint(node.children)
            ):
                drawn.add(node)
        lines = ["digraph trace {"]
        for node in (node for node in nodes if node in drawn):
            lines.append(f"  {json.dumps(node.id)} [label={json.dumps(f'{node.id[:8]} ({_label(node)})')}]")
            lines += [f"  {json.dumps(node.id)} -> {json.dumps(it.id)}" for it in node.children if it in drawn]
        return "\n".join([*lines, "}", ""])

    def visualize(self, filename: str, interested_span_match: str | None = None) -> None:
        """Draws the tree as `FILENAME.png`.

        Args:
            filename: Where to put it, without the ending.
            interested_span_match: A regular expression; see `to_dot`.

        Raises:
            ImportError: The package `graphviz` is not installed.
        """
        try:
            graphviz = importlib.import_module("graphviz")
        except ImportError as error:
            raise ImportError(
                "drawing a trace needs the package graphviz and the program dot of Graphviz: pip install graphviz; "
                "TraceTree.to_dot() gives the graph without them"
            ) from error
        graphviz.Source(self.to_dot(interested_span_match)).render(filename, format="png", cleanup=True)

    def repair_hierarchy(self) -> None:
        """Puts each direct child of the root into the shortest span that runs around it, if there is one.

        Spans lose their parent where a framework loses the context, and end up under the root. Nothing is put into a
        model call: calls that run side by side are not parts of each other. A root with one child only leaves the
        work to that child.
        """
        root = self
        while len(root.children) == 1:
            root = root.children[0]
        tops = root.children
        owners = {node: index for index, top in enumerate(tops) for node in top}
        # What each child of the root was put into, as the index of another child: an adopter may have moved itself.
        moved_into = list(range(len(tops)))
        adopters: set[TraceTree] = set()
        enclosing = _EnclosingSpans()
        for _, same_times in groupby(sorted(filter(_has_times, owners), key=_outer_first), key=_outer_first):
            group = list(same_times)
            for node in group:
                index = owners[node]
                if tops[index] is not node:
                    continue
                for adopter in enclosing.around(node):
                    if _follow(moved_into, owners[adopter]) != index:
                        moved_into[index] = owners[adopter]
                        adopter.children.append(node)
                        adopters.add(adopter)
                        break
            for node in group:
                if not is_model_call(node.span):
                    enclosing.add(node)
        root.children = [top for index, top in enumerate(tops) if moved_into[index] == index]
        for adopter in adopters:
            adopter.children.sort(key=_begin)

    def find_llm_calls(
        self,
        *,
        llm_call_match: str = ANY_MODEL_CALL,
        agent_match: str | None = None,
        within_matching_subtree: str | None = None,
        within_reward: bool | None = None,
        within_llm_call: bool | None = None,
        existing_llm_call_response_ids: set[str] | None = None,
    ) -> list[tuple[TraceTree, str]]:
        """Returns the nodes of model calls, each with the agent that it belongs to, in the order of the tree.

        See `find_model_calls`, which also says what is known of the calls.
        """
        located = self.find_model_calls(
            llm_call_match=llm_call_match,
            agent_match=agent_match,
            within_matching_subtree=within_matching_subtree,
            within_reward=within_reward,
            within_llm_call=within_llm_call,
            existing_llm_call_response_ids=existing_llm_call_response_ids,
        )
        return [(each.node, each.agent_name) for each in located]

    def find_model_calls(
        self,
        *,
        llm_call_match: str = ANY_MODEL_CALL,
        agent_match: str | None = None,
        within_matching_subtree: str | None = None,
        within_reward: bool | None = None,
        within_llm_call: bool | None = None,
        existing_llm_call_response_ids: set[str] | None = None,
    ) -> list[LocatedCall]:
        """Returns the model calls, in the order of the tree.

        Args:
            llm_call_match: A regular expression to be found in the name of the span. `ANY_MODEL_CALL` takes spans in
                a known dialect, too.
            agent_match: A regular expression to be found in the name of the nearest agent around the call. None takes
                calls of all agents and of none.
            within_matching_subtree: The agent around the whole tree.
            within_reward: False leaves out calls inside a span that carries a reward, as a judge makes them. True
                says that the whole tree is inside one. None takes them all.
            within_llm_call: None counts every span. Anything else counts a call once that several instrumentations
                recorded inside each other.
            existing_llm_call_response_ids: Ids of responses that are known already, which are left out; those found
                are added. None counts calls with the same response id as often as they come.
        """
        agent = within_matching_subtree or (ANY_AGENT if agent_match is None else None)
        candidates: list[LocatedCall] = []
        around: list[int | None] = []
        waiting: list[tuple[TraceTree, str | None, bool, int | None]] = [(self, agent, bool(within_reward), None)]
        while waiting:
            node, agent, in_reward, outer = waiting.pop()
            if name := node.agent_name():
                agent = name if agent_match is None or re.search(agent_match, name) else None
            if agent is not None and not in_reward and _is_call(node.span, llm_call_match):
                candidates.append(LocatedCall(node, agent, read_model_call(node.span)))
                around.append(outer)
                outer = len(candidates) - 1 if within_llm_call is not None else None
            in_reward = in_reward or (within_reward is not None and node.is_reward_span())
            waiting += [(child, agent, in_reward, outer) for child in reversed(node.children)]
        located = _without_inner_records(candidates, around)
        if existing_llm_call_response_ids is None:
            return located
        return _one_for_each_response(located, existing_llm_call_response_ids)

    def match_rewards(
        self, reward_match: RewardMatchPolicy | str, llm_calls: Sequence[TraceTree]
    ) -> dict[str, float | None]:
        """Gives each reward of the tree to the latest call that had ended by then and has none yet.

        Args:
            reward_match: Among which calls to look.
            llm_calls: The nodes of the calls.

        Returns:
            The reward of each call by the id of its node, None for those that got none.

        Raises:
            ValueError: There is no such policy.
        """
        if RewardMatchPolicy(reward_match) is RewardMatchPolicy.FIRST_OCCURRENCE:
            groups = [(list(llm_calls), self.traverse())]
        else:
            calls = set(llm_calls)
            groups = [([child for child in node.children if child in calls], node.children) for node in self]
        matched: dict[str, float | None] = {call.id: None for call in llm_calls}
        for group, nodes in groups:
            if not group:
                continue
            found = [(node, get_reward_value(node.span)) for node in nodes]
            # A reward at the very moment of a call's end is for that call.
            rewards = [((_begin(node), 1), value) for node, value in found if value is not None]
            matched.update(
                zip(
                    (call.id for call in group),
                    assigned_rewards([(_end(call), 0) for call in group], rewards),
                    strict=True,
                )
            )
        return matched

    def span_to_triplet(self, span: Span, agent_name: str) -> Triplet:
        """Returns the triplet of a model call, without a reward; see `triplet_of`."""
        return triplet_of(read_model_call(span), span, agent_name=agent_name)

    def to_trajectory(
        self,
        llm_call_match: str = ANY_MODEL_CALL,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        dedup_llm_call: bool = True,
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        final_reward: float | None = None,
        _skip_empty_token_spans: bool = False,
    ) -> list[Triplet]:
        """Returns the triplets of the model calls, with their rewards, in the order of the tree.

        Args:
            llm_call_match: Which spans are model calls; see `find_model_calls`.
            agent_match: Whose calls to take; see `find_model_calls`.
            exclude_llm_call_in_reward: Leave out calls inside a span that carries a reward.
            dedup_llm_call: Count a call once that several spans record.
            reward_match: Among which calls the one that earned a reward is looked for.
            final_reward: The reward of the last triplet, whatever was matched to it.
            _skip_empty_token_spans: Leave out calls without token ids, as if they had not been made.
        """
        located = self.find_model_calls(
            llm_call_match=llm_call_match,
            agent_match=agent_match,
            within_reward=False if exclude_llm_call_in_reward else None,
            within_llm_call=False if dedup_llm_call else None,
            existing_llm_call_response_ids=set() if dedup_llm_call else None,
        )
        if _skip_empty_token_spans:
            located = [each for each in located if each.call.is_complete]
        rewards = self.match_rewards(reward_match, [each.node for each in located if each.can_earn])
        triplets = []
        for each in located:
            triplet = triplet_of(each.call, each.node.span, agent_name=each.agent_name)
            triplet.reward = rewards.get(each.node.id)
            triplets.append(triplet)
        if triplets and final_reward is not None:
            triplets[-1].reward = final_reward
        return triplets


class _EnclosingSpans:
    """The spans that began first, kept for the question which of them run around another.

    A span that ends no later than one which is no longer and began no earlier is never the shortest around anything,
    so it is dropped: what is left rises in both end and length, and the shortest is found by bisection.
    """

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._nodes: list[TraceTree] = []

    def add(self, node: TraceTree) -> None:
        """Adds a span; each begins no earlier than those before it."""
        end = _end(node)
        behind = bisect_left(self._ends, end)
        if behind < len(self._ends) and self._ends[behind] == end:
            if _length(self._nodes[behind]) == _length(node):
                return
            behind += 1
        ahead = behind
        while ahead and _length(self._nodes[ahead - 1]) >= _length(node):
            ahead -= 1
        self._ends[ahead:behind] = [end]
        self._nodes[ahead:behind] = [node]

    def around(self, node: TraceTree) -> Iterator[TraceTree]:
        """Yields the spans that end no earlier than one that is about to be added, the shortest first."""
        for index in range(bisect_left(self._ends, _end(node)), len(self._nodes)):
            yield self._nodes[index]


def _key(span: Span, span_id: str) -> tuple[str, str]:
    return span.trace_id, span_id


def _virtual_span(like: Span, span_id: str | None = None) -> Span:
    return Span.from_attributes(
        attributes={},
        name=AGL_VIRTUAL,
        rollout_id=like.rollout_id,
        attempt_id=like.attempt_id,
        sequence_id=like.sequence_id,
        trace_id=like.trace_id,
        span_id=span_id,
    )


def _set_times(span: Span, held: Sequence[Span]) -> None:
    span.start_time = min((each.start_time for each in held if each.start_time is not None), default=None)
    span.end_time = max((each.end_time for each in held if each.end_time is not None), default=None)


def _cut_cycles(parents: dict[TraceTree, TraceTree | None]) -> None:
    leads_to_root: set[TraceTree] = set()
    for node in parents:
        path: list[TraceTree] = []
        on_path: set[TraceTree] = set()
        step: TraceTree | None = node
        while step is not None and step not in leads_to_root:
            if step in on_path:
                parents[step] = None
                break
            path.append(step)
            on_path.add(step)
            step = parents[step]
        leads_to_root.update(path)


def _is_call(span: Span, llm_call_match: str) -> bool:
    if re.search(llm_call_match, span.name):
        return True
    return llm_call_match == ANY_MODEL_CALL and is_model_call(span)


def _without_inner_records(candidates: list[LocatedCall], around: list[int | None]) -> list[LocatedCall]:
    """Returns each call once of those that stand in one another; `around` has the index of the one around each."""
    inner: dict[int | None, list[list[LocatedCall]]] = {}
    for index in reversed(range(len(candidates))):
        within = [call for group in reversed(inner.pop(index, [])) for call in group]
        inner.setdefault(around[index], []).append(_same_call(candidates[index], within))
    return [call for group in reversed(inner.get(None, [])) for call in group]


def _same_call(outer: LocatedCall, within: list[LocatedCall]) -> list[LocatedCall]:
    if not within:
        return [outer]
    response_id = outer.call.response_id
    if len(within) == 1:
        inner = within[0].call
        if response_id is None or inner.response_id in (None, response_id):
            # The inner record is nearer to the wire.
            return [LocatedCall(outer.node, outer.agent_name, merged(inner, outer.call))]
    elif response_id is None and not outer.call.is_complete:
        # What holds several calls and got no response of its own is no call but a loop around them.
        return within
    return [outer, *within]


def _one_for_each_response(located: list[LocatedCall], known: set[str]) -> list[LocatedCall]:
    first: dict[str, LocatedCall] = {}
    kept: list[LocatedCall] = []
    for each in located:
        response_id = each.call.response_id
        if response_id is None:
            kept.append(each)
        elif response_id in first:
            first[response_id].call = merged(first[response_id].call, each.call)
        elif response_id not in known:
            first[response_id] = each
            kept.append(each)
    known.update(first)
    return kept


def _label(node: TraceTree) -> str:
    agent = node.agent_name()
    return f"{node.span.name} [{agent}]" if agent else node.span.name


def _begin(node: TraceTree) -> float:
    # What nobody timed comes last.
    return math.inf if node.start_time is None else node.start_time


def _end(node: TraceTree) -> float:
    # What never ended is taken as it began; what nobody timed was over before anything else.
    if node.end_time is not None:
        return node.end_time
    return -math.inf if node.start_time is None else node.start_time


def _length(node: TraceTree) -> float:
    return _end(node) - _begin(node)


def _has_times(node: TraceTree) -> bool:
    return node.start_time is not None and node.end_time is not None


def _outer_first(node: TraceTree) -> tuple[float, float]:
    return _begin(node), -_end(node)


def _follow(links: list[int], index: int) -> int:
    while links[index] != index:
        links[index] = links[links[index]]
        index = links[index]
    return index

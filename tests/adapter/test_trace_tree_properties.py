"""What holds for the tree of any trace, however its spans hang together."""

from __future__ import annotations

from collections import Counter

from adapter_spans import TRACE
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning import Span
from agentlightning.adapter.dialects import is_model_call
from agentlightning.adapter.triplet import RewardMatchPolicy, TracerTraceToTriplet, TraceTree

IDS = [f"{number:016x}" for number in range(8)]
TIMES = st.none() | st.integers(0, 12)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """A span of a small world, where ids repeat, parents are missing or in a circle, and times are unknown."""
    start, length = draw(TIMES), draw(TIMES)
    kind = draw(st.sampled_from(["call", "reward", "agent", "other"]))
    response = f"c{draw(st.integers(0, 5))}"
    attributes = {
        "call": {"gen_ai.operation.name": "chat", "gen_ai.response.id": response, "prompt_token_ids": [1]},
        "reward": {"agentlightning.reward.0.value": float(draw(st.integers(1, 10**6)))},
        "agent": {"agent.name": "alice"},
        "other": {},
    }[kind]
    return Span.from_attributes(
        name=kind,
        trace_id=TRACE,
        span_id=draw(st.sampled_from(IDS)),
        parent_id=draw(st.none() | st.sampled_from(IDS)),
        start_time=None if start is None else float(start),
        end_time=None if start is None or length is None else float(start + length),
        attributes=attributes,
    )


TRACES = st.lists(spans(), min_size=1, max_size=25)


@given(TRACES)
@settings(max_examples=150, deadline=None)
def test_no_span_is_lost_and_each_has_one_place(trace: list[Span]) -> None:
    for repaired in (False, True):
        tree = TraceTree.from_spans(trace)
        if repaired:
            tree.repair_hierarchy()
        nodes = tree.traverse()
        held = Counter(id(node.span) for node in nodes if node.span.name != "agentlightning.virtual")
        assert held == Counter(id(span) for span in trace)
        assert len({node.id for node in nodes}) == len(nodes)


@given(TRACES)
@settings(max_examples=100, deadline=None)
def test_parents_come_before_children_and_siblings_by_start(trace: list[Span]) -> None:
    tree = TraceTree.from_spans(trace)
    tree.repair_hierarchy()
    place = {node: index for index, node in enumerate(tree)}
    for node in tree:
        assert all(place[node] < place[child] for child in node.children)
        starts = [child.start_time for child in node.children if child.start_time is not None]
        assert starts == sorted(starts)


@given(TRACES)
@settings(max_examples=100, deadline=None)
def test_repair_moves_a_span_only_into_one_that_runs_around_it(trace: list[Span]) -> None:
    tree = TraceTree.from_spans(trace)
    before = {child.id: node.id for node in tree for child in node.children}
    tree.repair_hierarchy()
    for node in tree:
        for child in node.children:
            if before[child.id] != node.id:
                assert not is_model_call(node.span)
                assert node.start_time is not None
                assert node.end_time is not None
                assert child.start_time is not None
                assert child.end_time is not None
                assert node.start_time <= child.start_time
                assert node.end_time >= child.end_time


@given(TRACES, st.sampled_from(RewardMatchPolicy))
@settings(max_examples=150, deadline=None)
def test_each_reward_is_used_at_most_once_and_never_before_its_call_ended(
    trace: list[Span], policy: RewardMatchPolicy
) -> None:
    tree = TraceTree.from_spans(trace)
    tree.repair_hierarchy()
    nodes = [node for node, _ in tree.find_llm_calls()]
    matched = tree.match_rewards(policy, nodes)
    assert set(matched) == {node.id for node in nodes}
    given_out = Counter(value for value in matched.values() if value is not None)
    offered = Counter(
        node.span.attributes["agentlightning.reward.0.value"] for node in tree if node.span.name == "reward"
    )
    assert given_out <= offered
    times = {
        value: [
            node.start_time
            for node in tree
            if node.span.attributes.get("agentlightning.reward.0.value") == value and node.start_time is not None
        ]
        for value in given_out
    }
    for node in nodes:
        value = matched[node.id]
        if value is not None and node.end_time is not None and times[value]:
            untimed = offered[value] > len(times[value])
            assert untimed or max(times[value]) >= node.end_time


@given(TRACES)
@settings(max_examples=100, deadline=None)
def test_each_response_gives_one_triplet(trace: list[Span]) -> None:
    triplets = TracerTraceToTriplet(exclude_llm_call_in_reward=False).adapt(trace)
    ids = [triplet.metadata["response_id"] for triplet in triplets]
    recorded = {span.attributes["gen_ai.response.id"] for span in trace if span.name == "call"}
    assert sorted(ids) == sorted(recorded)

"""The tree of a trace: how it is built and repaired, and which calls and rewards are found in it."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from adapter_spans import ROOT, agent, chat, reward, root, span, span_id

from agentlightning import Span, TraceStatus
from agentlightning.adapter.triplet import RewardMatchPolicy, TraceTree

CALL = "openai.chat.completion"


def names(spans: list[Span], *, repaired: bool = False) -> Any:
    tree = TraceTree.from_spans(spans)
    if repaired:
        tree.repair_hierarchy()
    return tree.names_tuple()


def rewards(spans: list[Span], policy: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE) -> list[float | None]:
    return [triplet.reward for triplet in TraceTree.from_spans(spans).to_trajectory(reward_match=policy)]


def call_ids(tree: TraceTree, **options: Any) -> list[str]:
    return [node.span.attributes.get("gen_ai.response.id") for node, _ in tree.find_llm_calls(**options)]


class TestBuilding:
    def test_no_spans_make_no_tree(self) -> None:
        with pytest.raises(ValueError, match="at least one span"):
            TraceTree.from_spans([])

    def test_children_stand_in_their_parent_by_start(self) -> None:
        spans = [span("late", 5, 6), span("inner", 2, 3, "early"), span("early", 1, 4, id="early"), root()]
        assert names(spans) == ("root", [("early", [("inner", [])]), ("late", [])])

    def test_several_roots_stand_in_a_virtual_one_that_runs_around_all(self) -> None:
        tree = TraceTree.from_spans([span("b", 3, 9, None), span("a", 1, 4, None, id="a"), span("in a", 2, 20, "a")])
        assert tree.names_tuple() == ("agentlightning.virtual", [("a", [("in a", [])]), ("b", [])])
        assert (tree.start_time, tree.end_time) == (1, 20)
        assert (tree.span.rollout_id, tree.span.attempt_id) == ("ro-1", "at-1")

    def test_spans_that_lost_the_same_parent_stay_together(self) -> None:
        tree = TraceTree.from_spans([span("x", 1, 2, "gone"), span("y", 3, 4, "gone"), root()])
        lost = ("agentlightning.virtual", [("x", []), ("y", [])])
        assert tree.names_tuple() == ("agentlightning.virtual", [("root", []), lost])
        stand_in = tree.find_id(span_id("gone"))
        assert stand_in is not None
        assert (stand_in.start_time, stand_in.end_time) == (1, 4)

    def test_ids_count_in_their_trace_only(self) -> None:
        other = "f" * 32
        spans = [root(), span("mine"), span("root", 0, 9, None, id=ROOT, trace_id=other), span("its", trace_id=other)]
        assert names(spans) == ("agentlightning.virtual", [("root", [("mine", [])]), ("root", [("its", [])])])

    def test_spans_with_the_same_id_are_all_kept_and_told_apart(self) -> None:
        tree = TraceTree.from_spans(
            [root(), span("one", 1, 2, id="x"), span("two", 3, 4, id="x"), span("in", 1, 2, "x")]
        )
        assert tree.names_tuple() == ("root", [("one", [("in", [])]), ("two", [])])
        assert len({node.id for node in tree}) == 4

    def test_spans_without_an_id_are_each_their_own(self) -> None:
        zero = [Span.from_attributes(name=name, attributes={}, span_id="0" * 16, parent_id="0" * 16) for name in "ab"]
        assert names(zero) == ("agentlightning.virtual", [("a", []), ("b", [])])

    def test_spans_that_are_each_others_parents_are_kept(self) -> None:
        spans = [span("a", 1, 2, "b", id="a"), span("b", 3, 4, "a", id="b"), span("in b", 3, 4, "b"), root()]
        tree = TraceTree.from_spans(spans)
        assert sorted(node.span.name for node in tree) == ["a", "agentlightning.virtual", "b", "in b", "root"]
        assert names([span("self", 1, 2, "self", id="self")]) == ("self", [])

    def test_spans_that_nobody_timed_come_last(self) -> None:
        assert names([root(), span("unknown", None), span("known", 5, 6)]) == (
            "root",
            [("known", []), ("unknown", [])],
        )

    def test_the_spans_given_are_not_changed(self) -> None:
        spans = [chat(1, 1, 2), span("agentlightning.virtual", None, parent=None, id="v"), span("in v", 1, 2, "v")]
        before = [each.model_dump() for each in spans]
        tree = TraceTree.from_spans(spans)
        tree.repair_hierarchy()
        tree.to_trajectory()
        assert [each.model_dump() for each in spans] == before


class TestReading:
    def test_iterating_gives_parents_before_children(self) -> None:
        tree = TraceTree.from_spans([agent("alice", 1, 9), chat(1, 2, 3, "alice"), span("z", 10, 11), root()])
        assert [node.span.name for node in tree] == ["root", "agent", CALL, "z"]
        assert tree.traverse() == list(tree)
        assert tree.find_id(span_id("c1")) is tree.traverse()[2]
        assert tree.find_id("nobody") is None

    def test_a_tree_is_json(self) -> None:
        tree = TraceTree.from_spans([root(), chat(1, 1, 2)])
        written = json.loads(json.dumps(tree.to_json()))
        assert written["id"] == span_id(ROOT)
        assert written["children"][0]["span"]["name"] == CALL
        assert written["children"][0]["children"] == []

    def test_a_node_added_by_hand_is_part_of_the_tree(self) -> None:
        tree = TraceTree("top", root())
        tree.add_child(TraceTree("c", chat(1, 1, 2)))
        assert call_ids(tree) == ["c1"]
        assert repr(tree) == "<TraceTree top 'root', 1 children>"

    def test_trees_of_ten_thousand_spans_are_handled_deep_and_wide(self) -> None:
        deep = [span("s", n, 30_000 - n, f"s{n - 1}" if n else None, id=f"s{n}") for n in range(10_000)]
        wide = [root(0, 50_000), *(span("s", n, n + 0.5) for n in range(10_000))]
        calls = [root(0, 50_000), *(span(CALL, n, n + 0.5, prompt_token_ids=[1]) for n in range(5_000))]
        calls += [reward(1.0, n + 0.75) for n in range(5_000)]
        started = time.process_time()
        for spans in (deep, wide, calls):
            tree = TraceTree.from_spans(spans)
            tree.repair_hierarchy()
            assert len(tree.traverse()) == len(spans)
            tree.names_tuple()
            tree.to_dot()
            tree.to_trajectory()
        # Linear takes 2 s on a slow core; quadratic would take minutes.
        assert time.process_time() - started < 30

    @pytest.mark.parametrize(
        ("attributes", "name"),
        [
            ({"agent.name": "a", "executor.id": "e"}, "a"),
            ({"agentops.span.kind": "agent", "operation.name": "o"}, "o"),
            ({"agentops.span.kind": "AgentOpsSpanKindValues.AGENT", "operation.name": "o"}, "o"),
            ({"operation.name": "o"}, None),
            ({"recipient_agent_type": "r"}, "r"),
            ({"langchain.chain.type": "l"}, "l"),
            ({"executor.id": "e"}, "e"),
            ({"gen_ai.agent.name": "g"}, "g"),
            ({"traceloop.span.kind": "agent", "traceloop.entity.name": "t"}, "t"),
            ({"openinference.span.kind": "AGENT", "graph.node.id": "n"}, "n"),
            ({"openinference.span.kind": "AGENT"}, "x"),
            ({"openinference.span.kind": "CHAIN"}, None),
        ],
    )
    def test_agents_are_named_as_each_framework_names_them(self, attributes: dict[str, Any], name: str | None) -> None:
        assert TraceTree("x", span("x", attributes=attributes)).agent_name() == name


class TestDrawing:
    def test_a_tree_is_a_graph(self) -> None:
        dot = TraceTree.from_spans([root(), agent('"quoted"', 1, 9), chat(1, 2, 3, '"quoted"')]).to_dot()
        assert f'"{span_id(ROOT)}" -> "{span_id(chr(34) + "quoted" + chr(34))}"' in dot
        assert r"(agent [\"quoted\"])" in dot
        assert dot.startswith("digraph trace {")
        assert dot.endswith("}\n")

    def test_only_interesting_spans_and_those_around_them_are_drawn(self) -> None:
        spans = [
            root(),
            agent("alice", 1, 9),
            chat(1, 2, 3, "alice"),
            span("dull", 4, 5),
            span("dull too", 4, 5, "alice"),
        ]
        dot = TraceTree.from_spans(spans).to_dot(interested_span_match="openai")
        assert "dull" not in dot
        assert dot.count("->") == 2

    def test_drawing_without_graphviz_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "graphviz", None)
        with pytest.raises(ImportError, match=r"pip install graphviz; TraceTree\.to_dot\(\)"):
            TraceTree.from_spans([root()]).visualize("never")


class TestRepair:
    def test_children_of_the_root_move_into_the_shortest_span_around_them(self) -> None:
        spans = [root(), agent("alice", 0, 50), span("inner", 1, 40), chat(1, 2, 3), chat(2, 45, 60)]
        assert names(spans, repaired=True) == (
            "root",
            [("agent [alice]", [("inner", [(CALL, [])])]), (CALL, [])],
        )

    def test_spans_below_the_children_of_the_root_stay_where_they_are(self) -> None:
        spans = [root(), span("x", 0, 50, id="x"), span("p", 1, 30, "x"), span("q", 2, 20, "x"), span("y", 60, 70)]
        assert names(spans, repaired=True) == ("root", [("x", [("p", []), ("q", [])]), ("y", [])])

    def test_a_root_with_one_child_leaves_the_work_to_that_child(self) -> None:
        spans = [root(), span("only", 0, 90, id="only"), agent("alice", 0, 50, "only"), chat(1, 2, 3, "only")]
        assert names(spans, repaired=True) == ("root", [("only", [("agent [alice]", [(CALL, [])])])])

    def test_spans_with_the_same_times_stay_beside_each_other(self) -> None:
        assert names([root(), span("x", 1, 5), span("y", 1, 5), span("z", 2, 3)], repaired=True) == (
            "root",
            [("x", [("z", [])]), ("y", [])],
        )

    def test_calls_that_run_side_by_side_do_not_become_parts_of_each_other(self) -> None:
        spans = [root(), chat(1, 1, 9), chat(2, 2, 3)]
        assert names(spans, repaired=True) == ("root", [(CALL, []), (CALL, [])])

    def test_no_span_is_lost_where_spans_outlive_what_they_are_in(self) -> None:
        spans = [root(), span("c", 0, 10, id="c"), span("d", 0, 20, "c"), span("e", 0, 30, id="e")]
        assert names(spans, repaired=True) == ("root", [("e", [("c", [("d", [])])])])
        crossed = [
            root(),
            span("c1", 0, 10, id="c1"),
            span("d1", -1, 20, "c1"),
            span("c2", 1, 9, id="c2"),
            span("d2", -1, 15, "c2"),
        ]
        tree = TraceTree.from_spans(crossed)
        tree.repair_hierarchy()
        assert sorted(node.span.name for node in tree) == ["c1", "c2", "d1", "d2", "root"]

    def test_spans_without_times_stay_under_the_root(self) -> None:
        assert names([root(), span("x", 1, 9), span("unknown", None)], repaired=True) == (
            "root",
            [("x", []), ("unknown", [])],
        )


class TestFindingCalls:
    def test_calls_are_found_by_name_and_by_dialect(self) -> None:
        spans = [root(), chat(1, 1, 2), span("chat m", 3, 4, attributes={"gen_ai.operation.name": "chat"})]
        tree = TraceTree.from_spans([*spans, span("an openai.chat.completion.create", 5, 6), span("tool", 7, 8)])
        assert [node.span.name for node, _ in tree.find_llm_calls()] == [
            CALL,
            "chat m",
            "an openai.chat.completion.create",
        ]

    def test_an_expression_of_the_user_counts_alone(self) -> None:
        tree = TraceTree.from_spans([root(), chat(1, 1, 2), span("my.call", 3, 4)])
        assert [node.span.name for node, _ in tree.find_llm_calls(llm_call_match=r"^my\.")] == ["my.call"]

    def test_calls_belong_to_the_nearest_agent(self) -> None:
        spans = [root(), agent("outer", 0, 50), agent("inner", 1, 20, "outer"), chat(1, 2, 3, "inner")]
        tree = TraceTree.from_spans([*spans, chat(2, 30, 31, "outer"), chat(3, 60, 61)])
        assert [(node.id, name) for node, name in tree.find_llm_calls()] == [
            (span_id("c1"), "inner"),
            (span_id("c2"), "outer"),
            (span_id("c3"), "*"),
        ]
        assert call_ids(tree, agent_match="inner") == ["c1"]
        assert call_ids(tree, agent_match="^out") == ["c2"]
        assert call_ids(tree, agent_match="nobody") == []
        assert call_ids(tree, agent_match="nobody", within_matching_subtree="nobody at all") == ["c3"]

    def test_calls_of_a_judge_inside_a_reward_are_left_out_on_request(self) -> None:
        judged = {"agentops.task.output": json.dumps({"type": "reward", "value": 1.0})}
        tree = TraceTree.from_spans(
            [root(), chat(1, 1, 2), span("judge", 3, 6, id="judge", attributes=judged), chat(2, 4, 5, "judge")]
        )
        assert call_ids(tree) == ["c1", "c2"]
        assert call_ids(tree, within_reward=False) == ["c1"]
        assert call_ids(tree, within_reward=True) == []
        assert [triplet.reward for triplet in tree.to_trajectory()] == [1.0]
        assert len(tree.to_trajectory(exclude_llm_call_in_reward=False)) == 2

    def test_a_response_counts_once_and_its_id_is_noted_in_a_set_that_was_empty(self) -> None:
        tree = TraceTree.from_spans([root(), chat(1, 1, 2), chat(1, 3, 4), chat(2, 5, 6)])
        shared: set[str] = set()
        assert call_ids(tree, existing_llm_call_response_ids=shared) == ["c1", "c2"]
        assert shared == {"c1", "c2"}
        assert call_ids(tree, existing_llm_call_response_ids=shared) == []
        assert call_ids(tree) == ["c1", "c1", "c2"]
        assert len(tree.to_trajectory(dedup_llm_call=False)) == 3

    def test_two_records_of_one_response_complete_each_other(self) -> None:
        text_only = {"prompt_token_ids": [], "response_token_ids": []}
        ids_only = span(
            "gateway", 2, 3, attributes={"gen_ai.response.id": "c1", "prompt_token_ids": [7], "response_token_ids": [8]}
        )
        (triplet,) = TraceTree.from_spans([root(), chat(1, 1, 4, **text_only), ids_only]).to_trajectory()
        assert triplet.prompt["token_ids"] == [7]
        assert triplet.response["token_ids"] == [8]
        assert triplet.response["raw_content"][0]["content"] == "a1"

    def test_a_call_recorded_inside_its_own_record_counts_once(self) -> None:
        outer = span("ChatOpenAI", 1, 9, id="outer", attributes={"openinference.span.kind": "LLM"})
        tree = TraceTree.from_spans([root(), outer, span("http", 1, 8, "outer", id="http"), chat(1, 2, 7, "http")])
        (triplet,) = tree.to_trajectory()
        assert triplet.metadata["response_id"] == "c1"
        assert [node.id for node, _ in tree.find_llm_calls(within_llm_call=False)] == [span_id("outer")]
        assert len(tree.find_llm_calls()) == 2

    def test_a_span_around_several_calls_is_no_call(self) -> None:
        loop = span("ai.generateText", 1, 9, id="loop", attributes={"openinference.span.kind": "LLM"})
        tree = TraceTree.from_spans([root(), loop, chat(1, 2, 3, "loop"), chat(2, 4, 5, "loop")])
        assert [triplet.metadata["response_id"] for triplet in tree.to_trajectory()] == ["c1", "c2"]

    def test_a_call_inside_another_with_a_response_of_its_own_is_another_call(self) -> None:
        tree = TraceTree.from_spans([root(), chat(1, 1, 9), chat(2, 2, 3, "c1")])
        assert [triplet.metadata["response_id"] for triplet in tree.to_trajectory()] == ["c1", "c2"]


class TestMatchingRewards:
    def test_a_reward_goes_to_the_latest_call_before_it_that_has_none(self) -> None:
        calls = [root(), chat(1, 1, 2), chat(2, 3, 4), chat(3, 6, 7)]
        assert rewards([*calls, reward(0.5, 2.5), reward(1.0, 8)]) == [0.5, None, 1.0]
        assert rewards([*calls, reward(0.1, 4.5), reward(0.2, 5)]) == [0.2, 0.1, None]

    def test_a_reward_is_given_once_and_a_call_gets_one(self) -> None:
        assert rewards([root(), chat(1, 1, 2), reward(0.25, 3), reward(0.5, 4)]) == [0.25]

    def test_a_reward_that_starts_before_the_call_has_ended_is_not_for_it(self) -> None:
        assert rewards([root(), chat(1, 1, 4), reward(0.25, 2), reward(0.75, 5)]) == [0.75]
        assert rewards([root(), chat(1, 1, 4), reward(0.25, 0.5)]) == [None]
        assert rewards([root(), chat(1, 1, 2), reward(0.25, 2)]) == [0.25]

    def test_siblings_keep_their_rewards_among_themselves(self) -> None:
        spans = [root(), agent("alice", 0, 50), chat(1, 1, 2, "alice"), chat(2, 3, 4, "alice")]
        spans += [reward(0.25, 2.5, "alice"), chat(3, 60, 70), reward(0.5, 80), reward(0.75, 81)]
        assert rewards(spans, RewardMatchPolicy.FIRST_SIBLING) == [0.25, None, 0.5]
        assert rewards(spans) == [0.25, 0.75, 0.5]

    def test_rewards_without_a_call_beside_them_go_nowhere_among_siblings(self) -> None:
        spans = [root(), agent("alice", 0, 50), chat(1, 1, 2, "alice"), reward(0.5, 80)]
        assert rewards(spans, RewardMatchPolicy.FIRST_SIBLING) == [None]

    def test_every_call_has_an_entry_and_policies_go_by_their_names(self) -> None:
        tree = TraceTree.from_spans([root(), chat(1, 1, 2), chat(2, 3, 4), reward(0.5, 5)])
        nodes = [node for node, _ in tree.find_llm_calls()]
        assert tree.match_rewards("first_occurrence", nodes) == {span_id("c1"): None, span_id("c2"): 0.5}
        assert tree.match_rewards("first_sibling", nodes) == {span_id("c1"): None, span_id("c2"): 0.5}
        with pytest.raises(ValueError, match="last_word"):
            tree.match_rewards("last_word", nodes)

    def test_calls_and_rewards_without_times_are_matched_as_if_before_and_after_all(self) -> None:
        timeless = chat(1, 1, 2)
        timeless.start_time = timeless.end_time = None
        assert rewards([root(), timeless, chat(2, 3, 4), reward(0.5, None), reward(0.25, 3.5)]) == [0.5, 0.25]
        open_call = chat(3, 1, 2)
        open_call.end_time = None
        assert rewards([root(), open_call, reward(0.5, 1.5)]) == [0.5]

    def test_a_failed_call_takes_no_reward_from_the_one_that_answered(self) -> None:
        failed = span(CALL, 3, 4, status=TraceStatus(status_code="ERROR", description="429 Too Many Requests"))
        triplets = TraceTree.from_spans([root(), chat(1, 1, 2), failed, reward(1.0, 5)]).to_trajectory()
        assert [triplet.reward for triplet in triplets] == [1.0, None]
        assert triplets[1].metadata["diagnosis"] == "the model call failed: 429 Too Many Requests"

    def test_the_final_reward_is_that_of_the_last_triplet(self) -> None:
        tree = TraceTree.from_spans([root(), chat(1, 1, 2), chat(2, 3, 4), reward(0.25, 5)])
        assert [triplet.reward for triplet in tree.to_trajectory(final_reward=9.0)] == [None, 9.0]
        assert TraceTree.from_spans([root()]).to_trajectory(final_reward=9.0) == []

    def test_calls_left_out_for_want_of_token_ids_earn_nothing(self) -> None:
        spans = [root(), chat(1, 1, 2), span(CALL, 3, 4), reward(0.5, 5)]
        (triplet,) = TraceTree.from_spans(spans).to_trajectory(_skip_empty_token_spans=True)
        assert (triplet.metadata["response_id"], triplet.reward) == ("c1", 0.5)

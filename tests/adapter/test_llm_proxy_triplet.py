"""The triplets of what a model gateway recorded."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from adapter_spans import reward, span

from agentlightning import Span
from agentlightning.adapter import LlmProxyTraceToTriplet


def raw(number: int, sequence_id: int, **changed: Any) -> Span:
    """A call as LiteLLM's proxy records it."""
    recorded = {
        "llm.hosted_vllm.id": f"c{number}",
        "llm.hosted_vllm.prompt_token_ids": str([1, 2, number]),
        "llm.hosted_vllm.choices": str(
            [{"message": {"role": "assistant", "content": "it's"}, "token_ids": [3, number]}]
        ),
    }
    return span("raw_gen_ai_request", 1, 2, None, sequence_id=sequence_id, attributes=recorded | changed)


def given(value: float, sequence_id: int) -> Span:
    return reward(value, 5, None, sequence_id=sequence_id)


def adapted(*spans: Span) -> list[tuple[str | None, float | None]]:
    return [(each.metadata["response_id"], each.reward) for each in LlmProxyTraceToTriplet().adapt(spans)]


def test_a_recorded_call_is_a_triplet() -> None:
    (triplet,) = LlmProxyTraceToTriplet().adapt([raw(1, 1), given(1.0, 2)])
    assert triplet.prompt["token_ids"] == [1, 2, 1]
    assert triplet.response["token_ids"] == [3, 1]
    assert triplet.response["raw_content"] == [{"role": "assistant", "content": "it's"}]
    assert (triplet.metadata["response_id"], triplet.reward) == ("c1", 1.0)


def test_a_reward_goes_to_the_latest_call_with_a_lower_sequence_id() -> None:
    assert adapted(raw(1, 1), given(0.5, 2), raw(2, 3), given(1.0, 4)) == [("c1", 0.5), ("c2", 1.0)]
    assert adapted(raw(1, 1), raw(2, 2), given(1.0, 3)) == [("c1", None), ("c2", 1.0)]
    assert adapted(raw(1, 1), raw(2, 2), given(1.0, 3), given(2.0, 4)) == [("c1", 2.0), ("c2", 1.0)]


def test_a_reward_with_the_sequence_id_of_a_call_is_not_for_it() -> None:
    assert adapted(raw(1, 1), given(1.0, 1)) == [("c1", None)]
    assert adapted(given(1.0, 1), raw(1, 2)) == [("c1", None)]


def test_the_order_of_the_spans_given_does_not_matter() -> None:
    spans = [raw(1, 1), given(0.5, 2), raw(2, 3), raw(3, 4), given(1.0, 5)]
    for seed in range(5):
        assert adapted(*random.Random(seed).sample(spans, len(spans))) == [("c1", 0.5), ("c2", None), ("c3", 1.0)]


def test_a_response_counts_once() -> None:
    request = span(
        "litellm_request",
        0,
        3,
        None,
        sequence_id=1,
        attributes={"gen_ai.response.id": "c1", "gen_ai.prompt.0.content": "q"},
    )
    assert adapted(request, raw(1, 1), raw(1, 2)) == [("c1", None)]
    with_ids = {"gen_ai.response.id": "c1", "prompt_token_ids": [9], "response_token_ids": [9]}
    first = span("litellm_request", 0, 3, None, sequence_id=1, attributes=with_ids)
    (triplet,) = LlmProxyTraceToTriplet().adapt([raw(1, 1), first])
    assert triplet.prompt["token_ids"] == [9]


def test_only_gateways_count() -> None:
    ids = {"prompt_token_ids": [1], "response_token_ids": [2]}
    assert adapted(span("openai.chat.completion", 1, 2, None, sequence_id=1, attributes=ids)) == []
    ours = span(
        "chat", 1, 2, None, attributes={**ids, "agentlightning.generation.model": "m", "gen_ai.response.id": "r"}
    )
    assert adapted(ours) == [("r", None)]
    newer = span("Received Proxy Server Request", 1, 2, None, attributes=raw(4, 1).attributes)
    assert adapted(newer) == [("c4", None)]


def test_what_is_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    assert adapted(raw(1, 1), raw(2, 2, **{"llm.hosted_vllm.prompt_token_ids": "nonsense"})) == [("c1", None)]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "rollout ro-1, attempt at-1: left out without token ids: 1 of 2 model calls: what prompt_token_ids holds is no "
        "list of token ids"
    )


def test_a_call_whose_other_span_is_complete_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    request = span("litellm_request", 0, 3, None, sequence_id=1, attributes={"gen_ai.response.id": "c1"})
    without_id = span("litellm_request", 0, 3, None, sequence_id=1)
    assert adapted(request, without_id, raw(1, 1)) == [("c1", None)]
    assert caplog.records == []


@pytest.mark.parametrize("spans", [[], [span("tool", 1, 2, None)]], ids=["no spans", "no gateway"])
def test_nothing_to_learn_from_is_said(spans: list[Span], caplog: pytest.LogCaptureFixture) -> None:
    assert LlmProxyTraceToTriplet().adapt(spans) == []
    assert f"no span of a model gateway among {len(spans)} spans" in caplog.text

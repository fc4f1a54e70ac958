"""What rollouts teach: advantages, joined turns, weights."""

from __future__ import annotations

import math

import pytest

from agentlightning.algorithm.grpo.samples import Episode, advantages, samples_of
from agentlightning.algorithm.policies.calls import ModelCall, UnusableSpans, read_calls
from agentlightning.types import Triplet


def episode(reward: float, *calls: ModelCall) -> Episode:
    return Episode("ro", reward, calls)


def call(prompt: list[int], response: list[int], temperature: float = 1.0) -> ModelCall:
    return ModelCall(prompt, response, [-0.5 * (index + 1) for index in range(len(response))], temperature)


def triplet(response: list[int], logprobs: list[float] | None, model: str = "policy", **request: float) -> Triplet:
    kept = {} if logprobs is None else {"logprobs": [{"logprob": value} for value in logprobs]}
    return Triplet(
        prompt={"token_ids": [1, 2]},
        response={"token_ids": response, **kept},
        metadata={"request": {"model": model, **request}, "response": {"model_version": "7"}},
    )


def test_advantages_are_distances_from_the_mean_in_standard_deviations() -> None:
    deviation = math.sqrt(((0.0 - 0.5) ** 2 + (1.0 - 0.5) ** 2 + 0 + 0) / 4)
    expected = [-0.5 / deviation, 0.5 / deviation, 0.0, 0.0]
    assert advantages([0.0, 1.0, 0.5, 0.5], scaled=True) == pytest.approx(expected)
    assert advantages([0.0, 1.0, 0.5, 0.5], scaled=False) == pytest.approx([-0.5, 0.5, 0.0, 0.0])


def test_a_group_whose_rewards_are_equal_teaches_nothing() -> None:
    assert advantages([0.1 + 0.2, 0.3, 0.3], scaled=True) == [0.0, 0.0, 0.0]
    even = [episode(0.3, call([1], [2])), episode(0.3, call([1], [3]))]
    assert samples_of([even], scale_advantages=True, aggregation="token", keep_even=False) == []
    assert len(samples_of([even], scale_advantages=True, aggregation="token", keep_even=True)) == 2


def test_every_call_of_a_rollout_gets_the_advantage_of_the_rollout() -> None:
    group = [episode(1.0, call([1], [2]), call([5], [6, 7])), episode(0.0, call([1], [3]))]
    samples = samples_of([group], scale_advantages=False, aggregation="token", keep_even=False)
    assert [(sample.prompt, sample.completion, sample.advantage) for sample in samples] == [
        ([1], [2], 0.5),
        ([5], [6, 7], 0.5),
        ([1], [3], -0.5),
    ]


def test_turns_that_go_on_from_each_other_become_one_sequence_in_which_only_chosen_tokens_count() -> None:
    first, second = call([1, 2], [3, 4]), call([1, 2, 3, 4, 9, 9], [5])
    (sample, _) = samples_of(
        [[episode(1.0, first, second), episode(0.0, call([1, 2], [8]))]],
        scale_advantages=False,
        aggregation="token",
        keep_even=False,
    )
    assert sample.prompt == [1, 2]
    assert sample.completion == [3, 4, 9, 9, 5]
    assert sample.chosen == [True, True, False, False, True]
    assert sample.logprobs == [-0.5, -1.0, 0.0, 0.0, -0.5]


@pytest.mark.parametrize(
    "second",
    [call([1, 2, 3, 7, 9], [5]), call([1, 2], [5]), call([1, 2, 3, 4, 9], [5], temperature=0.7)],
    ids=["tokenized otherwise", "begun anew", "of another temperature"],
)
def test_turns_that_do_not_go_on_from_each_other_stay_apart(second: ModelCall) -> None:
    group = [episode(1.0, call([1, 2], [3, 4]), second), episode(0.0, call([1, 2], [8]))]
    samples = samples_of([group], scale_advantages=True, aggregation="token", keep_even=False)
    assert [sample.completion for sample in samples] == [[3, 4], [5], [8]]


def test_weights_of_chosen_tokens_add_up_to_one() -> None:
    groups = [
        [episode(1.0, call([1], [2, 3, 4])), episode(0.0, call([1], [5]), call([6], [7, 8]))],
        [episode(1.0, call([1], [2])), episode(0.5, call([1], [2, 2]))],
    ]
    for aggregation in ("token", "rollout"):
        samples = samples_of(groups, scale_advantages=True, aggregation=aggregation, keep_even=False)
        assert sum(sample.weight * sum(sample.chosen) for sample in samples) == pytest.approx(1.0)
    assert {sample.weight for sample in samples} == {1 / (4 * 3), 1 / (4 * 1), 1 / (4 * 2)}


def test_even_groups_make_the_step_smaller() -> None:
    uneven = [episode(1.0, call([1], [2])), episode(0.0, call([1], [3]))]
    even = [episode(1.0, call([1], [2])), episode(1.0, call([1], [3]))]
    samples = samples_of([uneven, even], scale_advantages=True, aggregation="token", keep_even=False)
    assert [sample.weight for sample in samples] == [1 / 4, 1 / 4]


def test_calls_are_read_with_the_temperature_that_they_asked_for() -> None:
    calls = read_calls(
        [triplet([3], [-0.5]), triplet([4], [-0.5], temperature=0.3)], default_temperature=0.9, models=["policy"]
    )
    assert [each.temperature for each in calls] == [0.9, 0.3]
    assert calls[0] == ModelCall([1, 2], [3], [-0.5], 0.9, "7")
    greedy = read_calls([triplet([3], [-0.5], temperature=0.0)], default_temperature=0.9, models=["policy"])
    assert greedy[0].temperature == 1.0


def test_calls_without_a_logprob_for_each_token_cannot_be_trained_on_and_say_why() -> None:
    assert len(read_calls([triplet([3, 4], [-0.5]), triplet([3], [-0.5])], 1.0, ["policy"])) == 1
    with pytest.raises(UnusableSpans, match="none of 2 model calls has a log-probability for each token"):
        read_calls([triplet([3, 4], [-0.5]), triplet([3], None)], 1.0, ["policy"])
    with pytest.raises(UnusableSpans, match="endpoint of its `llm`"):
        read_calls([], 1.0, ["policy"])


def test_calls_of_other_models_are_not_the_policys() -> None:
    judged = [triplet([3], [-0.5]), triplet([30_000], [-0.5], "judge"), triplet([4], [-0.5], "policy-validation")]
    calls = read_calls(judged, 1.0, ["policy", "policy-validation"])
    assert [each.response for each in calls] == [[3], [4]]
    with pytest.raises(UnusableSpans, match="all of 1 model calls are of other models than policy: "):
        read_calls(judged[1:2], 1.0, ["policy"])

"""Answers are drawn from the model's own probabilities, whatever else is answered at the same time."""

from __future__ import annotations

import math
import threading
from collections import Counter

import pytest
import torch
from policies import generation, next_token, plain_logprobs, tiny_policy
from tiny import DEVICE

from agentlightning.algorithm.grpo.decoding import Decoder
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.policies.generation import Generation

PROMPTS = [[3, 5, 4], [3, 6, 4], [3, 5, 4], [3, 5, 6, 5, 6, 4], [4], [3, 5, 4, 7, 1, 3, 6, 4]]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def answer(policy: Policy, generations: list[Generation], max_concurrency: int = 64) -> None:
    """Has answers made, and returns when they are over."""
    over = threading.Semaphore(0)
    for each in generations:
        each.changed = lambda each=each: over.release() if each.is_over else None  # type: ignore[misc]
    decoder = Decoder(policy, max_concurrency)
    decoder.start()
    for each in generations:
        decoder.submit(each)
    for _ in generations:
        assert over.acquire(timeout=30)
    decoder.stop()


def test_logprobs_are_those_with_which_the_model_chooses(policy: Policy) -> None:
    generations = [generation(prompt, seed=number) for number, prompt in enumerate(PROMPTS)]
    answer(policy, generations)
    for each in generations:
        expected = plain_logprobs(policy, [*each.prompt, *each.tokens])[len(each.prompt) - 1 :]
        assert each.logprobs == pytest.approx(expected, abs=1e-9)


def test_logprobs_are_of_the_temperature_that_was_asked_for(policy: Policy) -> None:
    hot = generation(PROMPTS[0], temperature=3.0)
    answer(policy, [hot])
    assert hot.logprobs == pytest.approx(plain_logprobs(policy, [*PROMPTS[0], *hot.tokens], 3.0)[2:], abs=1e-9)


@pytest.mark.parametrize("max_concurrency", [1, 2, 4])
def test_an_answer_is_the_same_whatever_else_is_answered_meanwhile(policy: Policy, max_concurrency: int) -> None:
    alone = [generation(prompt, seed=number) for number, prompt in enumerate(PROMPTS)]
    for each in alone:
        answer(policy, [each])
    together = [generation(prompt, seed=number) for number, prompt in enumerate(PROMPTS)]
    answer(policy, together, max_concurrency)
    assert [each.tokens for each in together] == [each.tokens for each in alone]


def test_temperature_0_takes_the_likeliest_token(policy: Policy) -> None:
    greedy = generation(PROMPTS[3], temperature=0.0)
    answer(policy, [greedy])
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*PROMPTS[3], *greedy.tokens]], device=DEVICE)).logits[0]
    assert greedy.tokens == logits[len(PROMPTS[3]) - 1 : -1].argmax(-1).tolist()
    assert greedy.logprobs == pytest.approx(plain_logprobs(policy, [*PROMPTS[3], *greedy.tokens])[5:], abs=1e-9)


def test_tokens_come_as_often_as_they_are_likely(policy: Policy) -> None:
    draws = 2000
    generations = [generation(PROMPTS[0], most_tokens=1, seed=number) for number in range(draws)]
    answer(policy, generations, max_concurrency=500)
    counted = Counter(each.tokens[0] for each in generations)
    for token, probability in enumerate(next_token(policy, PROMPTS[0]).tolist()):
        # Five standard deviations: the seeds are fixed, so this holds always or never.
        assert counted[token] == pytest.approx(draws * probability, abs=5 * math.sqrt(draws * probability))


def test_top_p_leaves_out_the_unlikely_tail(policy: Policy) -> None:
    likely = next_token(policy, PROMPTS[0])
    ranked = likely.argsort(descending=True).tolist()
    limit = float(likely[ranked[0]] + likely[ranked[1]] + likely[ranked[2]] / 2)
    generations = [generation(PROMPTS[0], most_tokens=1, top_p=limit, seed=number) for number in range(200)]
    answer(policy, generations)
    assert {each.tokens[0] for each in generations} == set(ranked[:3])


def test_answers_end_at_the_end_token_or_at_their_limit(policy: Policy) -> None:
    generations = [generation([3, 5, 4], seed=number, most_tokens=5) for number in range(40)]
    answer(policy, generations)
    for each in generations:
        ended = each.tokens[-1] in policy.end_tokens
        assert each.finish_reason == ("stop" if ended else "length")
        assert ended or len(each.tokens) == 5
    assert {each.finish_reason for each in generations} == {"stop", "length"}


def test_an_abandoned_answer_makes_room_for_others(policy: Policy) -> None:
    first, second = generation(PROMPTS[0], most_tokens=10_000), generation(PROMPTS[1], most_tokens=2)
    over = threading.Event()
    # The end token would end it early.
    first.chance.random = lambda: 0.0  # type: ignore[method-assign]
    second.changed = lambda: over.set() if second.is_over else None
    decoder = Decoder(policy, 1)
    decoder.start()
    decoder.submit(first)
    decoder.submit(second)
    first.abandoned = True
    assert over.wait(30)
    decoder.stop()
    assert second.finish_reason
    assert not first.finish_reason


def test_weights_that_change_are_used_from_the_next_token_on() -> None:
    policy = tiny_policy()
    before, after = generation(PROMPTS[0], temperature=0.0, most_tokens=1), generation(PROMPTS[0], most_tokens=1)
    answer(policy, [before])
    with policy.lock, torch.no_grad():
        next(policy.model.parameters()).normal_(generator=torch.Generator(DEVICE).manual_seed(1))
        policy.version += 1
    answer(policy, [after])
    assert (before.version, after.version) == ("0", "1")
    assert after.logprobs == pytest.approx(plain_logprobs(policy, [*PROMPTS[0], *after.tokens])[2:], abs=1e-9)


def test_answers_that_are_not_over_fail_when_the_decoder_stops(policy: Policy) -> None:
    told = threading.Event()
    endless = generation(PROMPTS[0], most_tokens=10_000)
    endless.chance.random = lambda: 0.0  # type: ignore[method-assign]
    endless.changed = lambda: told.set() if endless.error else None
    decoder = Decoder(policy, 1)
    decoder.start()
    decoder.submit(endless)
    decoder.stop()
    assert told.is_set()
    with pytest.raises(RuntimeError, match="stopped"):
        decoder.submit(generation(PROMPTS[0]))


def test_a_model_that_fails_fails_the_answers_and_not_those_after_them() -> None:
    policy = tiny_policy()
    failing, fine = generation([3, 5, 4]), generation([3, 5, 4])
    out_of_memory = torch.OutOfMemoryError("no room")

    def fail(*_: object) -> None:
        raise out_of_memory

    # Tokens that the model does not know would fail it too, but on a GPU nothing would work after them.
    with policy.model.register_forward_pre_hook(fail):
        answer(policy, [failing])
    assert failing.error is out_of_memory
    answer(policy, [fine])
    assert fine.finish_reason

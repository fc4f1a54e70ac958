"""The policy answers as an OpenAI-compatible server does, and says which tokens it chose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError
from policies import plain_logprobs, tiny_policy

from agentlightning.algorithm.grpo.decoding import Decoder
from agentlightning.algorithm.grpo.policy import Policy
from agentlightning.algorithm.policies.requests import ServedModel
from agentlightning.algorithm.policies.server import PolicyServer
from agentlightning.algorithm.policies.tool_calls import split_tool_calls

MESSAGES: Any = [{"role": "user", "content": "red"}]
PROMPT = [3, 5, 1, 4]
"""`MESSAGES` as the chat template writes them."""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


@pytest_asyncio.fixture
async def server(policy: Policy) -> AsyncIterator[PolicyServer]:
    models = {"policy": ServedModel(1.0, 5), "greedy": ServedModel(0.0, 5)}
    server = PolicyServer(Decoder(policy, 64), models, max_context_tokens=16)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def client(server: PolicyServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def http(server: PolicyServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client


async def test_chat_tells_token_ids_and_their_logprobs(client: AsyncOpenAI, policy: Policy) -> None:
    answer = await client.chat.completions.create(
        model="policy", messages=MESSAGES, logprobs=True, extra_body={"return_token_ids": True}
    )
    (choice,) = answer.choices
    tokens = choice.model_extra["token_ids"]  # type: ignore[index]
    assert answer.model_extra["prompt_token_ids"] == PROMPT  # type: ignore[index]
    assert choice.message.content == policy.tokenizer.decode(tokens, skip_special_tokens=True)
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    found = [each.logprob for each in choice.logprobs.content]
    assert found == pytest.approx(plain_logprobs(policy, [*PROMPT, *tokens])[len(PROMPT) - 1 :], abs=1e-9)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), len(tokens))


async def test_token_ids_and_logprobs_come_only_if_asked_for(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/chat/completions", json={"model": "policy", "messages": MESSAGES})).json()
    assert "prompt_token_ids" not in answer
    assert "token_ids" not in answer["choices"][0]
    assert answer["choices"][0]["logprobs"] is None


async def test_completions_take_texts_and_token_ids(client: AsyncOpenAI) -> None:
    text, ids = [
        await client.completions.create(
            model="greedy", prompt=prompt, max_tokens=4, logprobs=0, extra_body={"return_token_ids": True}
        )
        for prompt in ("<user> red <end> <assistant>", PROMPT)
    ]
    assert text.choices[0].text == ids.choices[0].text
    assert ids.choices[0].model_extra["prompt_token_ids"] == PROMPT  # type: ignore[index]
    assert text.choices[0].model_extra["token_ids"] == ids.choices[0].model_extra["token_ids"]  # type: ignore[index]
    assert ids.choices[0].logprobs is not None
    assert ids.choices[0].logprobs.token_logprobs == pytest.approx(text.choices[0].logprobs.token_logprobs)  # type: ignore[union-attr]
    several = await client.completions.create(model="policy", prompt=[PROMPT, [3, 6, 1, 4]], n=2, max_tokens=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


async def test_a_stream_adds_up_to_the_whole_answer(client: AsyncOpenAI) -> None:
    asked: Any = {"model": "policy", "messages": MESSAGES, "seed": 7, "n": 3, "logprobs": True}
    extra = {"return_token_ids": True}
    whole = await client.chat.completions.create(**asked, extra_body=extra)
    stream = await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}, extra_body=extra
    )
    texts = ["", "", ""]
    tokens: list[list[int]] = [[], [], []]
    logprobs: list[list[float]] = [[], [], []]
    reasons = {}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += choice.model_extra["token_ids"]  # type: ignore[index]
            assert choice.logprobs is not None
            logprobs[choice.index] += [each.logprob for each in choice.logprobs.content or ()]
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert tokens == [choice.model_extra["token_ids"] for choice in whole.choices]  # type: ignore[index]
    assert logprobs == [
        pytest.approx([each.logprob for each in choice.logprobs.content])  # type: ignore[union-attr]
        for choice in whole.choices
    ]
    assert [reasons[index] for index in range(3)] == [choice.finish_reason for choice in whole.choices]
    assert chunk.usage == whole.usage


async def test_models_have_defaults_of_their_own(client: AsyncOpenAI) -> None:
    async def texts(model: str) -> set[str | None]:
        answers = await asyncio.gather(
            *[client.chat.completions.create(model=model, messages=MESSAGES) for _ in range(8)]
        )
        return {answer.choices[0].message.content for answer in answers}

    assert [model.id async for model in await client.models.list()] == ["policy", "greedy"]
    assert len(await texts("greedy")) == 1
    assert len(await texts("policy")) > 1


async def test_a_seed_makes_an_answer_repeatable(client: AsyncOpenAI) -> None:
    async def ask(seed: int) -> list[str | None]:
        answer = await client.chat.completions.create(model="policy", messages=MESSAGES, seed=seed, n=4)
        return [choice.message.content for choice in answer.choices]

    assert await ask(1) == await ask(1)
    assert await ask(1) != await ask(2)
    assert len(set(await ask(1))) > 1


async def test_attempts_of_a_rollout_get_the_same_answers(http: httpx.AsyncClient) -> None:
    async def ask(rollout: str, attempt: str) -> str:
        headers = {"agentlightning-rollout-id": rollout, "agentlightning-attempt-id": attempt}
        body = {"model": "policy", "messages": MESSAGES}
        answer = (await http.post("/chat/completions", json=body, headers=headers)).json()
        return str(answer["choices"][0]["message"]["content"])

    first = [await ask("ro-1", "at-1") for _ in range(4)]
    again = [await ask("ro-1", "at-2") for _ in range(4)]
    other = [await ask("ro-2", "at-1") for _ in range(4)]
    assert first == again
    assert first != other
    assert len(set(first)) > 1


async def test_a_stop_text_ends_the_answer_and_is_left_out(client: AsyncOpenAI, policy: Policy) -> None:
    asked: Any = {"model": "policy", "messages": MESSAGES, "seed": 3, "n": 20}
    plain = await client.chat.completions.create(**asked)
    stopped = await client.chat.completions.create(**asked, stop=["stop", "go"], extra_body={"return_token_ids": True})
    ends = policy.tokenizer.encode("stop go")
    assert any("stop" in (choice.message.content or "") for choice in plain.choices)
    for before, after in zip(plain.choices, stopped.choices, strict=True):
        text = before.message.content or ""
        cut = min([place for stop in ("stop", "go") if (place := text.find(stop)) >= 0], default=len(text))
        assert after.message.content == text[:cut]
        tokens = after.model_extra["token_ids"]  # type: ignore[index]
        assert not set(tokens[:-1]) & set(ends)
        assert (tokens[-1] in ends) == (cut < len(text))


async def test_answers_keep_within_the_context(client: AsyncOpenAI) -> None:
    long = " ".join(["red"] * 10)
    answer = await client.chat.completions.create(
        model="policy", messages=[{"role": "user", "content": long}], max_tokens=1000, n=20
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 13
    assert max(len((choice.message.content or "").split()) for choice in answer.choices) <= 3
    assert "length" in {choice.finish_reason for choice in answer.choices}
    with pytest.raises(BadRequestError, match="1 to 15 tokens, and this one has 18"):
        await client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": f"{long} {long[:19]}"}]
        )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "gpt"}, "there is no model 'gpt' here; there is policy, greedy"),
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only, not image_url"),
        ({"frequency_penalty": 0.5}, "frequency_penalty=0.5 is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format="),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs is not supported"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_the_reason(
    changes: dict[str, Any], why: str, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/chat/completions", json={"model": "policy", "messages": MESSAGES, **changes})
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


@pytest.mark.parametrize(("prompt", "why"), [([3, 999], "token ids must be from 0 to 8"), ([], "1 to 15 tokens")])
async def test_tokens_that_the_model_does_not_know_are_refused(
    prompt: list[int], why: str, client: AsyncOpenAI
) -> None:
    with pytest.raises(BadRequestError, match=why):
        await client.completions.create(model="policy", prompt=prompt)


async def test_what_clients_send_without_need_is_ignored(http: httpx.AsyncClient) -> None:
    needless = {"frequency_penalty": 0, "user": "me", "store": False, "response_format": {"type": "text"}}
    answer = await http.post("/chat/completions", json={"model": "policy", "messages": MESSAGES, **needless})
    assert answer.status_code == 200


async def test_a_client_that_hangs_up_ends_its_answer(http: httpx.AsyncClient, policy: Policy) -> None:
    # The weights are held, so that no answer can end by itself.
    policy.lock.acquire()
    try:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/chat/completions", json={"model": "policy", "messages": MESSAGES}, timeout=0.2)
    finally:
        policy.lock.release()
    answer = await http.post("/chat/completions", json={"model": "greedy", "messages": MESSAGES})
    assert answer.status_code == 200


async def test_answers_say_which_weights_made_them(http: httpx.AsyncClient) -> None:
    answer = await http.post("/chat/completions", json={"model": "policy", "messages": MESSAGES})
    assert answer.headers["agentlightning-model-version"] == "0"
    assert (await http.get("/../health")).json() == {"status": "ok", "version": "0"}


def test_tool_calls_are_taken_out_of_the_text() -> None:
    text = 'Let me see. <tool_call>\n{"name": "search", "arguments": {"query": "ä"}}\n</tool_call>'
    assert split_tool_calls(text) == ("Let me see.", [{"name": "search", "arguments": '{"query": "ä"}'}])
    two = '<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b", "arguments": {}}'
    assert [call["name"] for call in split_tool_calls(two)[1]] == ["a", "b"]


@pytest.mark.parametrize("text", ["no call", "<tool_call>[1]</tool_call>", "<tool_call>{oops</tool_call> and more"])
def test_what_is_no_tool_call_stays_text(text: str) -> None:
    assert split_tool_calls(text) == (text, [])

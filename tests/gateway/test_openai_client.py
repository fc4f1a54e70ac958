"""OpenAI's own client gets the same through the gateway as without it, and every call is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from gateways import recorded, resource
from openai_server import OpenAIServer, logprob_of, prompt_of, token_ids_of, tokens_of

from agentlightning import (
    AttemptedRollout,
    InMemoryLightningStore,
    LLMProxy,
    LlmProxyTraceToTriplet,
    TracerTraceToTriplet,
    TraceToMessages,
)
from agentlightning.codec.generation import (
    MODEL,
    PROMPT_TOKEN_IDS,
    RESPONSE_LOGPROBS,
    RESPONSE_TOKEN_IDS,
)

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How   are you,\n\n  today? Grüße"},
]
ANSWER = "echo: How   are you,\n\n  today? Grüße"
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
]


@pytest_asyncio.fixture
async def client(proxy: LLMProxy, rollout: AttemptedRollout) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of an agent."""
    llm = resource(proxy, rollout)
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key, max_retries=0) as client:
        yield client


async def test_a_chat_is_answered_and_recorded_with_the_ids_that_the_backend_sampled(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    answer = await client.chat.completions.create(model="policy", messages=MESSAGES, temperature=0.5)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].logprobs is None
    assert not answer.model_extra
    assert not answer.choices[0].model_extra

    (span,) = await recorded(memory, rollout)
    assert (span.name, span.sequence_id, span.status.status_code) == ("openai.chat.completion", 1, "OK")
    assert (span.rollout_id, span.attempt_id) == (rollout.rollout_id, rollout.attempt.attempt_id)
    attributes = span.attributes
    assert attributes[PROMPT_TOKEN_IDS] == token_ids_of(prompt_of(MESSAGES))
    assert attributes[RESPONSE_TOKEN_IDS] == token_ids_of(ANSWER)
    assert attributes[RESPONSE_LOGPROBS] == [logprob_of(token) for token in tokens_of(ANSWER)]
    assert attributes[MODEL] == "tiny-chat"
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.usage.output_tokens"] == len(tokens_of(ANSWER))
    assert attributes["http.response.status_code"] == 200
    assert (span.end_time or 0) >= (span.start_time or 0) > 0


async def test_a_stream_comes_as_a_stream_and_is_recorded_like_a_whole_answer(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    stream = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content or "" for chunk in chunks] == ["", *tokens_of(ANSWER), ""]
    assert {chunk.usage for chunk in chunks} == {None}

    (span,) = await recorded(memory, rollout)
    assert span.attributes[PROMPT_TOKEN_IDS] == token_ids_of(prompt_of(MESSAGES))
    assert span.attributes[RESPONSE_TOKEN_IDS] == token_ids_of(ANSWER)
    assert span.attributes[RESPONSE_LOGPROBS] == [logprob_of(token) for token in tokens_of(ANSWER)]
    assert span.attributes["gen_ai.usage.output_tokens"] == len(tokens_of(ANSWER))
    assert span.attributes["agentlightning.gateway.seconds_to_first_chunk"] > 0


async def test_the_span_of_a_stream_is_there_when_its_last_chunk_is_read(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    stream = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    async for chunk in stream:
        if chunk.choices[0].finish_reason is not None:
            assert len(await recorded(memory, rollout)) == 1
            return
    pytest.fail("the stream did not say that it was finished")


def test_the_client_that_blocks_works_too(proxy: LLMProxy, rollout: AttemptedRollout, endpoint: OpenAIServer) -> None:
    llm = resource(proxy, rollout)
    with openai.OpenAI(base_url=llm.endpoint, api_key=llm.api_key, max_retries=0) as client:
        answer = client.chat.completions.create(model="policy", messages=MESSAGES)
        streamed = client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert answer.choices[0].message.content == text == ANSWER
    assert len(endpoint.calls) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_are_called_and_the_conversation_is_recorded_word_for_word(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout, streamed: bool
) -> None:
    if streamed:
        async with client.chat.completions.stream(model="policy", messages=MESSAGES, tools=TOOLS) as stream:
            message = (await stream.get_final_completion()).choices[0].message
    else:
        message = (
            (await client.chat.completions.create(model="policy", messages=MESSAGES, tools=TOOLS)).choices[0].message
        )
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    result = {"role": "tool", "tool_call_id": call.id, "content": "42 °C"}
    asked = message.model_dump(include={"role", "content", "tool_calls"})
    await client.chat.completions.create(model="policy", messages=[*MESSAGES, asked, result], tools=TOOLS)  # type: ignore[list-item]

    first, second = TraceToMessages().adapt(await recorded(memory, rollout))
    function = {"name": "look_up", "arguments": call.function.arguments}
    calls = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call.id, "type": "function", "function": function}],
    }
    assert first == {"messages": [*MESSAGES, calls], "tools": TOOLS}
    said = {"role": "assistant", "content": "tool said: 42 °C"}
    assert second == {"messages": [*MESSAGES, calls, result, said], "tools": TOOLS}


async def test_all_choices_reach_the_agent_and_the_record(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    answer = await client.chat.completions.create(model="policy", messages=MESSAGES, n=3)
    stream = await client.chat.completions.create(model="policy", messages=MESSAGES, n=3, stream=True)
    texts = ["", "", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [choice.message.content for choice in answer.choices] == texts == [ANSWER] * 3
    for span in await recorded(memory, rollout):
        assert span.attributes["agentlightning.gateway.choices.2.response_token_ids"] == token_ids_of(ANSWER)
        assert span.attributes["gen_ai.response.finish_reasons"] == ["stop"] * 3


async def test_what_the_agent_asks_for_itself_it_gets(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="policy", messages=MESSAGES, logprobs=True, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.model_extra == {"prompt_token_ids": token_ids_of(prompt_of(MESSAGES))}
    assert answer.choices[0].model_extra == {"token_ids": token_ids_of(ANSWER)}
    stream = await client.chat.completions.create(
        model="policy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None


async def test_completions_are_recorded_with_their_ids(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    answer = await client.completions.create(model="policy", prompt="Once upon a time")
    stream = await client.completions.create(model="policy", prompt="Once upon a time", stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert answer.choices[0].text == text == " echo: Once upon a time"
    assert answer.choices[0].logprobs is None
    assert not answer.choices[0].model_extra
    for span in await recorded(memory, rollout):
        assert span.name == "openai.completion"
        assert span.attributes[PROMPT_TOKEN_IDS] == token_ids_of("Once upon a time")
        assert span.attributes[RESPONSE_TOKEN_IDS] == token_ids_of(text)
        assert span.attributes[RESPONSE_LOGPROBS] == [logprob_of(token) for token in tokens_of(text)]


async def test_embeddings_and_the_list_of_models(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout, endpoint: OpenAIServer
) -> None:
    embedded = await client.embeddings.create(model="policy", input=["one", "two"], encoding_format="float")
    assert len(embedded.data) == 2
    (span,) = await recorded(memory, rollout)
    assert (span.name, span.attributes["gen_ai.usage.input_tokens"]) == ("openai.embedding", 2)
    assert TracerTraceToTriplet().adapt([span]) == []
    assert [model.id async for model in client.models.list()] == ["policy"]
    assert len(endpoint.calls) == 1


async def test_both_triplet_adapters_read_the_record(
    client: openai.AsyncOpenAI, memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    for text in ("one", "two"):
        await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": text}])
    spans = await recorded(memory, rollout)
    for adapter in (TracerTraceToTriplet(), LlmProxyTraceToTriplet()):
        triplets = adapter.adapt(spans)
        assert [triplet.response["token_ids"] for triplet in triplets] == [
            token_ids_of(f"echo: {text}") for text in ("one", "two")
        ]
        assert [len(triplet.response["logprobs"]) for triplet in triplets] == [2, 2]

"""Anthropic's own client works through the gateway, in front of backends of its own protocol and of OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from anthropic_backend import speak_anthropic
from gateways import entry, recorded, resource, serving
from openai_server import OpenAIServer, prompt_of, token_ids_of
from scripted_backend import Exchange, ScriptedBackend, chat_answer, chat_chunk, sse

from agentlightning import AttemptedRollout, InMemoryLightningStore, TraceToMessages
from agentlightning.codec.generation import PROMPT_TOKEN_IDS, RESPONSE_TOKEN_IDS
from agentlightning.gateway.apis.translation import chat_request

anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed: `make test-integrations` has it")

ASKED = "Say:\n\n  def f(x):\n\t\treturn  x \n"
SYSTEM = "Be  brief."
TOOL: Any = {
    "name": "look_up",
    "description": "Looks a city up.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks a city up.", "parameters": TOOL["input_schema"]},
}


@asynccontextmanager
async def backend_of(protocol: str) -> AsyncIterator[str]:
    """Serves a model of a protocol and yields its base URL."""
    if protocol == "openai":
        with OpenAIServer() as server:
            yield server.base_url
    else:
        async with ScriptedBackend(speak_anthropic) as backend:
            yield backend.base_url


@asynccontextmanager
async def endpoint_for(store: InMemoryLightningStore, rollout: AttemptedRollout, protocol: str) -> AsyncIterator[str]:
    """Yields the URL that an agent calls."""
    model = "anthropic/tiny-chat" if protocol == "anthropic" else "hosted_vllm/tiny-chat"
    async with (
        backend_of(protocol) as base_url,
        serving(store, model_list=[entry(base_url, model=model)]) as proxy,
    ):
        yield resource(proxy, rollout).endpoint


@asynccontextmanager
async def client_for(
    store: InMemoryLightningStore, rollout: AttemptedRollout, protocol: str
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Yields the client of an agent."""
    async with (
        endpoint_for(store, rollout, protocol) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
async def test_a_message_keeps_every_blank_and_is_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, protocol: str, streamed: bool
) -> None:
    asked: Any = {
        "model": "policy",
        "max_tokens": 99,
        "system": SYSTEM,
        "messages": [{"role": "user", "content": ASKED}],
    }
    async with client_for(memory, rollout, protocol) as client:
        if streamed:
            async with client.messages.stream(**asked) as stream:
                texts = [text async for text in stream.text_stream]
                answer = await stream.get_final_message()
            assert len(texts) > 3
            assert "".join(texts) == f"echo: {ASKED}"
        else:
            answer = await client.messages.create(**asked)
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == f"echo: {ASKED}"
    assert (answer.stop_reason, answer.role) == ("end_turn", "assistant")
    assert answer.usage.output_tokens > 1
    assert answer.usage.input_tokens > 1

    (span,) = spans = await recorded(memory, rollout)
    assert span.name == "anthropic.message"
    assert span.attributes["gen_ai.usage.input_tokens"] == answer.usage.input_tokens
    prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}]
    said = {"role": "assistant", "content": f"echo: {ASKED}"}
    assert TraceToMessages().adapt(spans) == [{"messages": [*prompt, said], "tools": None}]
    if protocol == "openai":
        assert span.attributes[PROMPT_TOKEN_IDS] == token_ids_of(prompt_of(prompt))
        assert span.attributes[RESPONSE_TOKEN_IDS] == token_ids_of(f"echo: {ASKED}")


@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
async def test_the_client_that_blocks_works_too(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, protocol: str
) -> None:
    asked: Any = {"model": "policy", "max_tokens": 99, "messages": [{"role": "user", "content": ASKED}]}

    def ask(url: str) -> list[str]:
        with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
            answer = client.messages.create(**asked)
            with client.messages.stream(**asked) as stream:
                return [answer.content[0].text, "".join(stream.text_stream)]

    async with endpoint_for(memory, rollout, protocol) as url:
        assert await asyncio.to_thread(ask, url) == [f"echo: {ASKED}"] * 2
    assert [span.name for span in await recorded(memory, rollout)] == ["anthropic.message"] * 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
async def test_tools_are_called_and_answered(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, protocol: str, streamed: bool
) -> None:
    question: Any = {"role": "user", "content": "Paris  \n"}
    async with client_for(memory, rollout, protocol) as client:
        if streamed:
            async with client.messages.stream(
                model="policy", max_tokens=9, messages=[question], tools=[TOOL]
            ) as stream:
                answer: Any = await stream.get_final_message()
        else:
            answer = await client.messages.create(model="policy", max_tokens=9, messages=[question], tools=[TOOL])
        call = answer.content[-1]
        assert (call.type, call.name, call.input) == ("tool_use", "look_up", {"city": "Paris  \n"})
        assert answer.stop_reason == "tool_use"
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "2 million"}
        history = [question, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        final = await client.messages.create(model="policy", max_tokens=9, messages=history, tools=[TOOL])
    (block,) = final.content
    assert block.type == "text"
    assert block.text == "tool said: 2 million"

    (_, second) = TraceToMessages().adapt(await recorded(memory, rollout))
    assert second["tools"] == [CHAT_TOOL]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert second["messages"][1]["tool_calls"][0]["id"] == second["messages"][2]["tool_call_id"] == call.id


async def test_what_an_anthropic_backend_says_stays_byte_for_byte(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    body = {"model": "tiny-chat", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": ASKED}]}
    async with ScriptedBackend(speak_anthropic) as backend, httpx.AsyncClient() as http:
        direct = await http.post(f"{backend.base_url}/messages", json=body)
        entries = [entry(backend.base_url, "tiny-chat", model="anthropic/tiny-chat")]
        async with serving(memory, model_list=entries) as proxy:
            url = resource(proxy, rollout, "tiny-chat").endpoint
            got = await http.post(f"{url}/messages", json=body)
            counted = await http.post(f"{url}/messages/count_tokens", json=body)
    assert got.content == direct.content
    assert counted.json() == {"input_tokens": 11}
    assert len(await recorded(memory, rollout)) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_several_calls_thoughts_and_texts_come_as_blocks_in_their_order(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, streamed: bool
) -> None:
    calls = [
        {"id": f"c{index}", "type": "function", "function": {"name": "f", "arguments": f'{{"x": {index}}}'}}
        for index in range(2)
    ]
    message = {"role": "assistant", "content": "Both:", "reasoning_content": "hm ", "tool_calls": calls}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}

    async def script(exchange: Exchange) -> None:
        if not streamed:
            answer = chat_answer("")
            answer["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
            await exchange.answer({**answer, "usage": usage})
            return
        deltas: list[Any] = [{"role": "assistant", "content": ""}, {"reasoning_content": "hm "}, {"content": "Both:"}]
        for index, call in enumerate(calls):
            arguments = call["function"]["arguments"]
            deltas.append({"tool_calls": [{**call, "index": index, "function": {"name": "f", "arguments": ""}}]})
            deltas += [{"tool_calls": [{"index": index, "function": {"arguments": each}}]} for each in arguments]
        await exchange.begin()
        for delta in deltas:
            chunk = chat_chunk()
            chunk["choices"][0]["delta"] = delta
            await exchange.send(sse(chunk))
        await exchange.send(sse(chat_chunk(finish_reason="tool_calls")))
        await exchange.send(sse({**chat_chunk(), "choices": [], "usage": usage}))
        await exchange.send(sse("[DONE]"))
        await exchange.end()

    asked: Any = {"model": "policy", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        anthropic.AsyncAnthropic(base_url=resource(proxy, rollout).endpoint, api_key="any", max_retries=0) as client,
    ):
        if streamed:
            async with client.messages.stream(**asked) as stream:
                answer: Any = await stream.get_final_message()
        else:
            answer = await client.messages.create(**asked)
    thought, said, first, second = answer.content
    assert (thought.type, thought.thinking) == ("thinking", "hm ")
    assert (said.type, said.text) == ("text", "Both:")
    assert [(each.id, each.name, each.input) for each in (first, second)] == [
        ("c0", "f", {"x": 0}),
        ("c1", "f", {"x": 1}),
    ]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 4)


async def test_errors_come_in_anthropic_s_form_whoever_made_them(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer({"error": {"message": "too long"}}, 400)

    asked: Any = {"model": "policy", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        anthropic.AsyncAnthropic(base_url=resource(proxy, rollout).endpoint, api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(anthropic.BadRequestError, match="too long"):
            await client.messages.create(**asked)
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            await client.messages.create(**{**asked, "model": "other"})
    assert [span.status.status_code for span in await recorded(memory, rollout)] == ["ERROR", "ERROR"]


def test_a_request_says_the_same_as_a_chat_completion() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    request = {
        "model": "m",
        "max_tokens": 5,
        "top_k": 3,
        "stop_sequences": ["\n\n"],
        "metadata": {"user_id": "u"},
        "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True},
        "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "ok"}]},
        ],
    }
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert chat_request(request) == {
        "model": "m",
        "max_tokens": 5,
        "top_k": 3,
        "stop": ["\n\n"],
        "tools": [CHAT_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "parallel_tool_calls": False,
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "ok"},
        ],
    }

"""What comes through the gateway is byte for byte what the backend answers without it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from gateways import resource, serving
from openai_server import OpenAIServer
from scripted_backend import Exchange, ScriptedBackend, chat_answer, chat_chunk, sse

from agentlightning import AttemptedRollout, InMemoryLightningStore

CHAT: dict[str, Any] = {"model": "tiny-chat", "messages": [{"role": "user", "content": "Zähl  bis\t3 \U0001f600"}]}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}}]
PROMPT = {"model": "tiny-chat", "prompt": "Once  upon"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/chat/completions", CHAT),
    "chat, two choices": ("/chat/completions", {**CHAT, "n": 2}),
    "chat with logprobs": ("/chat/completions", {**CHAT, "logprobs": True}),
    "chat with token ids": ("/chat/completions", {**CHAT, "return_token_ids": True}),
    "chat with tools": ("/chat/completions", {**CHAT, "tools": TOOLS}),
    "completion": ("/completions", PROMPT),
    "completion with logprobs": ("/completions", {**PROMPT, "logprobs": 0}),
    "embedding": ("/embeddings", {"model": "tiny-chat", "input": "one"}),
}
STREAMS = {name: (path, {**body, "stream": True}) for name, (path, body) in REQUESTS.items() if name != "embedding"}
CASES = {
    **REQUESTS,
    **{f"{name}, streamed": case for name, case in STREAMS.items()},
    "chat, usage, streamed": ("/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_is_the_same_with_and_without_the_gateway(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, case: str
) -> None:
    path, body = CASES[case]
    # Answers are numbered, so each way has a backend of its own.
    with OpenAIServer() as direct, OpenAIServer() as behind:
        async with serving(memory, behind.base_url, model_list=[_named(behind)]) as proxy, httpx.AsyncClient() as http:
            expected = await http.post(f"{direct.base_url}{path}", json=body)
            got = await http.post(f"{resource(proxy, rollout).endpoint}{path}", json=body)
    assert got.status_code == expected.status_code == 200
    assert got.content == expected.content
    assert got.headers["content-type"] == expected.headers["content-type"]
    if path != "/embeddings":
        assert behind.calls[0].body["return_token_ids"] is True


async def test_bytes_that_json_leaves_open_stay_as_the_backend_chose_them(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    odd = (
        b'{ "id":"\\u0041", "choices" :[ {"token_ids":[1 , 2],"message": {"content":"caf\\u00e9 \xc3\xa9", "n": 1.0},'
        b'"logprobs":{"content":[{"logprob":-0.5},{"logprob":-1e-3}]} , "x": 1E400 } ],\n "prompt_token_ids":[7]}\n'
    )
    shown = (
        b'{ "id":"\\u0041", "choices" :[ {"message": {"content":"caf\\u00e9 \xc3\xa9", "n": 1.0},'
        b'"logprobs":null , "x": 1E400 } ]}\n'
    )

    async def script(exchange: Exchange) -> None:
        await exchange.begin(content_type="application/json")
        await exchange.send(odd)
        await exchange.end()

    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        httpx.AsyncClient() as http,
    ):
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json={**CHAT, "model": "policy"})
    assert got.content == shown
    (span,) = await memory.query_spans(rollout.rollout_id)
    assert span.attributes["response_token_ids"] == [1, 2]


async def test_a_request_reaches_the_backend_as_it_was_sent_where_nothing_has_to_be_added(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(chat_answer("fine"))

    raw = b'{"model": "policy",  "messages": [], "temperature": 1.0, "own": {"b": 1, "a": 2}}'
    async with ScriptedBackend(script) as backend:
        plain = {
            "model_name": "policy",
            "litellm_params": {"model": "openai/policy", "api_base": backend.base_url, "api_key": "secret"},
            "model_info": {"token_ids": False, "logprobs": False, "usage": False},
        }
        async with serving(memory, model_list=[plain]) as proxy, httpx.AsyncClient() as http:
            llm = resource(proxy, rollout)
            headers = {"authorization": f"Bearer {llm.api_key}", "x-trace": "1", "content-type": "application/json"}
            await http.post(f"{llm.endpoint}/chat/completions", content=raw, headers=headers)
    (exchange,) = backend.exchanges
    assert exchange.body == raw
    assert exchange.headers["x-trace"] == "1"
    # The backend gets its own key, and never that of the agent.
    assert exchange.headers["authorization"] == "Bearer secret"


async def test_errors_of_the_backend_reach_the_agent_as_they_are_and_the_record(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, endpoint: OpenAIServer
) -> None:
    endpoint.refuse(429, "slow down", retry_after="7")
    async with serving(memory, endpoint.base_url) as proxy, httpx.AsyncClient() as http:
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json={**CHAT, "model": "policy"})
    assert (got.status_code, got.headers["retry-after"]) == (429, "7")
    assert got.json()["error"]["message"] == "slow down"
    (span,) = await memory.query_spans(rollout.rollout_id)
    assert span.status.status_code == "ERROR"
    assert span.status.description == "status 429: slow down"
    assert span.attributes["http.response.status_code"] == 429


async def test_a_backend_that_refuses_what_it_was_asked_beside_is_asked_without_and_remembered(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async def script(exchange: Exchange) -> None:
        if "return_token_ids" in exchange.document:
            await exchange.answer({"error": {"message": "Unrecognized request argument"}}, 400)
        else:
            await exchange.answer(chat_answer("fine"))

    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        httpx.AsyncClient() as http,
    ):
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"
        answers = [await http.post(url, json={**CHAT, "model": "policy"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    asked = [("return_token_ids" in each.document, "logprobs" in each.document) for each in backend.exchanges]
    assert asked == [(True, True), (False, True), (False, True)]
    assert len(await memory.query_spans(rollout.rollout_id)) == 2


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("hiding", [False, True])
async def test_streams_are_the_same_however_they_are_cut(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, size: int, hiding: bool
) -> None:
    events = [
        b": ping\r\n\r\n",
        sse(chat_chunk("Hi", token_ids=[1])),
        b'event: x\ndata: {"choices": []}\ndata:\n\n',
        sse(chat_chunk(" you", token_ids=[2])),
        sse(chat_chunk(finish_reason="stop")),
        sse({"choices": [], "usage": {"completion_tokens": 2}}),
        sse("[DONE]"),
    ]
    stream = b"".join(events)

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for start in range(0, len(stream), size):
            await exchange.send(stream[start : start + size])
        await exchange.end()

    asked = {**CHAT, "model": "policy", "stream": True}
    if not hiding:
        asked |= {"return_token_ids": True, "logprobs": True, "stream_options": {"include_usage": True}}
        expected = stream
    else:
        expected = (
            b"".join(events[:5] + events[6:]).replace(b', "token_ids": [1]', b"").replace(b', "token_ids": [2]', b"")
        )
    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        httpx.AsyncClient() as http,
    ):
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json=asked)
    assert got.content == expected
    (span,) = await memory.query_spans(rollout.rollout_id)
    assert span.attributes["response_token_ids"] == [1, 2]
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert json.loads(span.attributes["gen_ai.output.messages"])[0]["parts"] == [{"type": "text", "content": "Hi you"}]


def _named(server: OpenAIServer) -> dict[str, Any]:
    parameters = {"model": "hosted_vllm/tiny-chat", "api_base": server.base_url}
    return {"model_name": "tiny-chat", "litellm_params": parameters}

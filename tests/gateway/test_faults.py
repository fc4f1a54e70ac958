"""Whatever fails, the agent hears of it, and the store knows of the call or the agent was refused."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from gateways import ASKED, entry, recorded, resource, serving
from scripted_backend import Exchange, ScriptedBackend, chat_answer, chat_chunk, sse
from store_process import StoreProcess

from agentlightning import AttemptedRollout, InMemoryLightningStore, LightningStoreClient, LLMProxy
from agentlightning.llm_proxy import Backend

STREAM = {**ASKED, "stream": True}


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30.0) as client:
        yield client


async def say_fine(exchange: Exchange) -> None:
    await exchange.answer(chat_answer("fine"))


async def test_a_backend_that_dies_in_mid_stream_cuts_the_stream_and_is_recorded_as_cut(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(sse(chat_chunk("It is", token_ids=[1, 2])))
        # Returning without an end cuts the connection.

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        llm = resource(proxy, rollout)
        received = bytearray()
        with pytest.raises(httpx.RemoteProtocolError):
            await _read(http, f"{llm.endpoint}/chat/completions", received)
        async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="any", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="broke off"):
                await _texts(client, [])
    assert b"It is" in received
    assert b"[DONE]" not in received
    for span in await recorded(memory, rollout):
        assert span.status.status_code == "ERROR"
        assert span.attributes["agentlightning.gateway.outcome"] == "cut"
        assert "It is" in span.attributes["gen_ai.output.messages"]
        # Nobody is to learn from an answer that no model ended.
        assert "response_token_ids" not in span.attributes


async def test_a_stream_that_ends_before_its_answer_is_recorded_as_cut(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(sse(chat_chunk("It is", token_ids=[1, 2])))
        await exchange.end()

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json=STREAM)
    assert got.content == sse(chat_chunk("It is"))
    (span,) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.gateway.outcome"] == "cut"
    assert "response_token_ids" not in span.attributes


async def test_a_whole_answer_that_breaks_off_is_an_error(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin(content_type="application/json", content_length="1000")
        await exchange.send(b'{"choices": [')

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json=ASKED)
    assert got.status_code == 502
    (span,) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.gateway.outcome"] == "cut"


@pytest.mark.parametrize("begun", [False, True])
async def test_when_the_agent_hangs_up_the_backend_may_stop_and_the_call_is_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient, begun: bool
) -> None:
    arrived, stopped = threading.Event(), threading.Event()

    async def script(exchange: Exchange) -> None:
        arrived.set()
        if begun:
            await exchange.begin()
            await exchange.send(sse(chat_chunk("It", token_ids=[1])))
        await exchange.hung_up.wait()
        stopped.set()

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"

        async def ask() -> None:
            async with http.stream("POST", url, json=STREAM) as response:
                async for _ in response.aiter_bytes():
                    return

        if begun:
            await ask()
        else:
            asking = asyncio.create_task(ask())
            assert await asyncio.to_thread(arrived.wait, 30.0)
            asking.cancel()
        assert await asyncio.to_thread(stopped.wait, 30.0)
        assert await proxy.drain(timeout=30.0)
        (span,) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.gateway.outcome"] == "cancelled"
    assert span.attributes.get("response_token_ids") == ([1] if begun else None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON object"),
        (b"{", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b"{}", "`model`"),
        (b'{"model": 3}', "`model`"),
    ],
)
async def test_a_malformed_body_is_refused_and_reaches_no_backend(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient, content: bytes, said: str
) -> None:
    async with ScriptedBackend(say_fine) as backend, serving(memory, backend.base_url) as proxy:
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", content=content)
    assert got.status_code == 400
    assert said in got.json()["error"]["message"]
    assert backend.exchanges == []


async def test_bodies_of_odd_forms_are_the_backend_s_to_judge_and_are_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    odd: list[dict[str, Any]] = [
        {"messages": 7, "tools": {}, "stop": 3, "n": "two", "stream_options": 1},
        {"messages": [None, {"role": 1, "content": 2, "tool_calls": 5}, {"content": [1, {"type": "text"}]}]},
        {"messages": [{"role": "tool", "content": None}, {"role": "user", "content": "\ud83d"}], "temperature": None},
    ]
    async with ScriptedBackend(say_fine) as backend, serving(memory, backend.base_url) as proxy:
        for body in odd:
            content = json.dumps({"model": "policy", **body})
            got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", content=content)
            assert got.status_code == 200
    assert len(await recorded(memory, rollout)) == len(odd)


async def test_a_body_that_is_too_large_is_refused(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say_fine) as backend, serving(memory, backend.base_url) as proxy:
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"
        got = await http.post(url, content=b" " * ((32 << 20) + 1))
        assert got.status_code == 413
        assert (await http.post(url, json=ASKED)).status_code == 200


async def test_unknown_models_attempts_and_paths_are_told(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say_fine) as backend, serving(memory, backend.base_url) as proxy:
        url = resource(proxy, rollout).endpoint
        unknown = await http.post(f"{url}/chat/completions", json={**ASKED, "model": "other"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert "there are: policy" in unknown.json()["error"]["message"]
        stranger = proxy.as_resource("ro-none", "at-none").endpoint
        lost = await http.post(f"{stranger}/chat/completions", json=ASKED)
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "unknown_attempt")
        nowhere = await http.post(f"{url}/images/generations", json=ASKED)
        assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "unknown_path")
        assert (await http.get(f"{url}/chat/completions")).status_code == 405


async def test_an_unreachable_backend_is_told_and_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say_fine) as gone:
        base_url = gone.base_url
    async with serving(memory, base_url) as proxy:
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json=ASKED)
    assert got.status_code == 502
    assert base_url in got.json()["error"]["message"]
    (span,) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.gateway.outcome"] == "failed"
    assert span.attributes["agentlightning.gateway.retries"] == 5


async def test_a_connection_that_the_backend_drops_before_an_answer_is_tried_again(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    connections = 0

    async def drop_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections > 2:
            body = json.dumps(chat_answer("fine")).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(drop_two, "127.0.0.1", 0)
    async with server, serving(memory, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as proxy:
        got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json=ASKED)
    assert (got.status_code, connections) == (200, 3)
    (span,) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.gateway.retries"] == 2


async def test_a_backend_that_says_nothing_in_time_is_told(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.hung_up.wait()

    async with ScriptedBackend(script) as backend:
        model = Backend("policy", backend.base_url, timeout=0.1)
        async with serving(memory, model_list=[model]) as proxy:
            got = await http.post(f"{resource(proxy, rollout).endpoint}/chat/completions", json=ASKED)
    assert (got.status_code, got.json()["error"]["code"]) == (504, "backend_unavailable")
    assert len(backend.exchanges) == 1


async def test_statuses_are_tried_again_as_often_as_asked_for(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async def script(exchange: Exchange) -> None:
        if len(backend.exchanges) < 3:
            await exchange.answer({"error": {"message": "busy"}}, 503, retry_after_ms="5")
        else:
            await say_fine(exchange)

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url, num_retries=1) as proxy:
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"
        assert (await http.post(url, json=ASKED)).status_code == 503
        assert (await http.post(url, json=ASKED)).status_code == 200
    statuses = [span.attributes["agentlightning.gateway.retries"] for span in await recorded(memory, rollout)]
    assert statuses == [1, 0]


@pytest.mark.parametrize("rule", ["fail", "serve"])
async def test_a_store_that_is_gone_fails_calls_unless_they_may_go_on_without_a_record(
    http: httpx.AsyncClient, rule: str
) -> None:
    server = StoreProcess()
    server.start()
    store = LightningStoreClient(server.address, retry_delays=())
    try:
        rollout = await store.start_rollout({})
        async with (
            ScriptedBackend(say_fine) as backend,
            serving(store, backend.base_url, on_store_failure=rule) as proxy,
        ):
            url = f"{resource(proxy, rollout).endpoint}/chat/completions"
            assert (await http.post(url, json=ASKED)).status_code == 200
            server.kill()
            got = await http.post(url, json=ASKED)
            health = (await http.get(f"{proxy.url.removesuffix('/v1')}/health")).json()
    finally:
        server.kill()
        await store.close()
    if rule == "serve":
        assert (got.status_code, health["lost_spans"]) == (200, 1)
    else:
        assert (got.status_code, got.json()["error"]["code"]) == (503, "store_unavailable")
        assert got.headers["retry-after"] == "1"
        assert health["lost_spans"] == 0


async def test_a_stream_whose_record_is_lost_does_not_end_as_if_nothing_were_wrong(http: httpx.AsyncClient) -> None:
    server = StoreProcess()
    server.start()
    store = LightningStoreClient(server.address, retry_delays=())

    begun = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(sse(chat_chunk("It is")))
        assert await asyncio.to_thread(begun.wait, 30.0)
        await asyncio.to_thread(server.kill)
        await exchange.send(sse(chat_chunk(finish_reason="stop")))
        await exchange.send(sse("[DONE]"))
        await exchange.end()

    try:
        rollout = await store.start_rollout({})
        async with ScriptedBackend(script) as backend, serving(store, backend.base_url) as proxy:
            llm = resource(proxy, rollout)
            async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="any", max_retries=0) as client:
                texts: list[str | None] = []
                with pytest.raises(openai.APIError, match="cannot be recorded"):
                    await _texts(client, texts, begun)
    finally:
        server.kill()
        await store.close()
    assert texts == ["It is"]


def test_what_cannot_be_configured_is_refused() -> None:
    for settings, said in (
        ({"host": "0.0.0.0"}, "insecure"),
        ({"num_workers": 0}, "num_workers"),
        ({"num_workers": 2, "launch_mode": "thread"}, "room for one worker"),
        ({"launch_mode": "fork"}, "launch_mode"),
        ({"on_store_failure": "ignore"}, "on_store_failure"),
        ({"callbacks": ["redis"]}, "callbacks"),
        ({"middlewares": ["other"]}, "middlewares"),
        ({"model_list": [{"model_name": "m"}]}, "litellm_params"),
        ({"model_list": [{"model_name": "m", "litellm_params": {"model": "hosted_vllm/m"}}]}, "api_base"),
        ({"model_list": [entry("ftp://host")]}, "http://"),
    ):
        with pytest.raises(ValueError, match=said):
            LLMProxy(**settings)  # type: ignore[arg-type]


async def _read(http: httpx.AsyncClient, url: str, received: bytearray) -> None:
    async with http.stream("POST", url, json=STREAM) as response:
        async for chunk in response.aiter_bytes():
            received += chunk


async def _texts(client: openai.AsyncOpenAI, texts: list[str | None], begun: threading.Event | None = None) -> None:
    stream = await client.chat.completions.create(**STREAM)  # type: ignore[call-overload]
    async for chunk in stream:
        texts.append(chunk.choices[0].delta.content)
        if begun is not None:
            begun.set()

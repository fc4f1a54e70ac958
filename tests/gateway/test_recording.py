"""No call of a finished rollout is ever missing in the store, and numbers follow the order of the calls."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from gateways import ASKED, recorded, resource, serving
from raw_http import post
from scripted_backend import Exchange, ScriptedBackend, chat_answer, chat_chunk, sse
from store_process import StoreProcess

from agentlightning import AttemptedRollout, InMemoryLightningStore, LightningStoreClient, RolloutConfig

ROLLOUTS = 1_000
AT_ONCE = 25


async def answer_or_stream(exchange: Exchange) -> None:
    if not exchange.document.get("stream"):
        await exchange.answer(chat_answer("fine", prompt_token_ids=[1, 2]))
        return
    await exchange.begin()
    await exchange.send(sse({**chat_chunk("fine", token_ids=[3]), "prompt_token_ids": [1, 2]}))
    await exchange.send(sse(chat_chunk(finish_reason="stop")))
    await exchange.send(sse("[DONE]"))
    await exchange.end()


async def test_of_1000_rollouts_queried_the_instant_they_finish_no_span_is_missing() -> None:
    server = StoreProcess()
    server.start()
    store = LightningStoreClient(server.address)
    missing: list[str] = []
    try:
        async with ScriptedBackend(answer_or_stream) as backend, serving(store, backend.base_url) as proxy:

            async def run(numbers: range) -> None:
                for number in numbers:
                    rollout = await store.start_rollout(number)
                    url = f"{resource(proxy, rollout).endpoint}/chat/completions"
                    if number % 2:
                        await post(url, ASKED)
                    else:
                        # No further than agents read that do not wait for `[DONE]`.
                        await post(url, {**ASKED, "stream": True}, until=b'"finish_reason": "stop"')
                    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
                    spans = await store.query_spans(rollout.rollout_id)
                    if [span.sequence_id for span in spans] != [1]:
                        missing.append(rollout.rollout_id)

            await asyncio.gather(*(run(range(first, ROLLOUTS, AT_ONCE)) for first in range(AT_ONCE)))
    finally:
        await store.close()
        server.kill()
    assert missing == []


async def test_a_call_has_the_number_of_when_it_began_not_of_when_it_ended(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    first_has_come, second_is_over = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def script(exchange: Exchange) -> None:
        content = exchange.document["messages"][0]["content"]
        if content == "first":
            loop.call_soon_threadsafe(first_has_come.set)
            waiting = asyncio.run_coroutine_threadsafe(second_is_over.wait(), loop)
            await asyncio.wrap_future(waiting)
        await exchange.answer(chat_answer(f"answer to {content}"))

    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        httpx.AsyncClient() as http,
    ):
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"

        def ask(text: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(http.post(url, json={**ASKED, "messages": [{"role": "user", "content": text}]}))

        first = ask("first")
        await first_has_come.wait()
        await ask("second")
        (span,) = await recorded(memory, rollout)
        second_is_over.set()
        await first
    assert (span.sequence_id, "answer to second" in span.attributes["gen_ai.output.messages"]) == (2, True)
    ordered = await recorded(memory, rollout)
    assert [each.sequence_id for each in ordered] == [1, 2]
    assert "answer to first" in ordered[0].attributes["gen_ai.output.messages"]


async def test_a_call_that_ends_after_its_attempt_has_failed_stays_there_and_takes_no_retry_away(
    memory: InMemoryLightningStore,
) -> None:
    has_come, may_go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def script(exchange: Exchange) -> None:
        loop.call_soon_threadsafe(has_come.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(may_go.wait(), loop))
        await exchange.answer(chat_answer("late"))

    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    rollout = await memory.start_rollout({}, config=config)
    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        call = asyncio.create_task(post(f"{resource(proxy, rollout).endpoint}/chat/completions", ASKED))
        await has_come.wait()
        await memory.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="failed")
        may_go.set()
        assert b"late" in await call
    retried = await memory.dequeue_rollout()
    assert retried is not None
    assert retried.attempt.sequence_id == 2
    (span,) = await recorded(memory, rollout)
    assert span.attempt_id == rollout.attempt.attempt_id


async def test_the_first_token_reaches_the_agent_while_the_backend_still_works_on_the_rest(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    seen = [asyncio.Event() for _ in range(3)]
    loop = asyncio.get_running_loop()

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for number, event in enumerate(seen):
            await exchange.send(sse(chat_chunk(f"word {number}")))
            # The next word waits until the agent has this one: buffering would end in a standstill.
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(event.wait(), loop))
        await exchange.send(sse(chat_chunk(finish_reason="stop")))
        await exchange.end()

    async with (
        ScriptedBackend(script) as backend,
        serving(memory, backend.base_url) as proxy,
        httpx.AsyncClient() as http,
    ):
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"
        for asked in ({}, {"return_token_ids": True, "logprobs": True, "stream_options": {"include_usage": True}}):
            for event in seen:
                event.clear()
            async with http.stream("POST", url, json={**ASKED, "stream": True, **asked}) as response:
                async for line in response.aiter_lines():
                    for number, event in enumerate(seen):
                        if f"word {number}" in line:
                            event.set()
    assert len(await recorded(memory, rollout)) == 2


@pytest.mark.timeout(300)
async def test_500_streams_at_once_are_served_and_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    everybody_is_here = asyncio.Event()
    waiting = 0

    async def script(exchange: Exchange) -> None:
        nonlocal waiting
        await exchange.begin()
        await exchange.send(sse({**chat_chunk("a", token_ids=[3]), "prompt_token_ids": [1]}))
        waiting += 1
        if waiting == 500:
            everybody_is_here.set()
        # Nobody gets a second word before all have their first.
        await everybody_is_here.wait()
        await exchange.send(sse(chat_chunk(" b", token_ids=[4])))
        await exchange.send(sse(chat_chunk(finish_reason="stop")))
        await exchange.send(sse("[DONE]"))
        await exchange.end()

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"
        answers = await asyncio.gather(*(post(url, {**ASKED, "stream": True}) for _ in range(500)))
        assert await proxy.drain(timeout=30.0)
    assert {
        (answer.startswith(b"HTTP/1.1 200"), answer.endswith(b"[DONE]\n\n\r\n0\r\n\r\n")) for answer in answers
    } == {(True, True)}
    spans = await recorded(memory, rollout)
    assert [span.sequence_id for span in spans] == list(range(1, 501))
    assert all(span.attributes["response_token_ids"] == [3, 4] for span in spans)

"""Calls go to the right backend, wait while weights change, and follow a new model list at once."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from gateways import ASKED, entry, recorded, resource, serving
from scripted_backend import Exchange, Script, ScriptedBackend, chat_answer

from agentlightning import AttemptedRollout, InMemoryLightningStore, LLMProxy
from agentlightning.gateway.backends import Backend, read_model_list
from agentlightning.gateway.routing import Router


def say(text: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(chat_answer(text))

    return script


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30.0) as client:
        yield client


async def ask(http: httpx.AsyncClient, proxy: LLMProxy, rollout: AttemptedRollout, model: str = "policy") -> str:
    url = resource(proxy, rollout, model).endpoint
    answer = await http.post(f"{url}/chat/completions", json={**ASKED, "model": model})
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def test_all_calls_of_a_rollout_go_to_one_backend_and_rollouts_spread_over_all(
    memory: InMemoryLightningStore, http: httpx.AsyncClient
) -> None:
    async with (
        ScriptedBackend(say("a")) as a,
        ScriptedBackend(say("b")) as b,
        serving(memory, a.base_url, b.base_url) as proxy,
    ):
        served: Counter[str] = Counter()
        for _ in range(16):
            rollout = await memory.start_rollout({})
            (backend,) = {await ask(http, proxy, rollout) for _ in range(3)}
            served[backend] += 1
    assert set(served) == {"a", "b"}


def test_a_backend_that_comes_or_goes_moves_only_the_rollouts_that_it_has() -> None:
    backends = [Backend("policy", f"http://host-{number}/v1") for number in range(4)]
    three, four = Router(backends[:3]), Router(backends)
    moved = 0
    for number in range(200):
        before = three.pick("policy", ["openai"], f"ro-{number}").backend
        after = four.pick("policy", ["openai"], f"ro-{number}").backend
        moved += before != after
        assert after in (before, backends[3])
    assert 20 < moved < 80


async def test_when_a_backend_dies_its_rollouts_go_on_at_another(
    memory: InMemoryLightningStore, http: httpx.AsyncClient
) -> None:
    async with (
        ScriptedBackend(say("b")) as b,
        ScriptedBackend(say("a")) as a,
        serving(memory, a.base_url, b.base_url) as proxy,
    ):
        rollout = await memory.start_rollout({})
        while await ask(http, proxy, rollout) != "a":
            rollout = await memory.start_rollout({})
        await a.stop()
        assert await ask(http, proxy, rollout) == "b"
    (_, span) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.gateway.retries"] == 1


async def test_a_new_model_list_takes_effect_at_once_and_leaves_calls_at_work_alone(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    has_come, may_go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(exchange: Exchange) -> None:
        loop.call_soon_threadsafe(has_come.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(may_go.wait(), loop))
        await exchange.answer(chat_answer("old"))

    async with ScriptedBackend(slow) as old, ScriptedBackend(say("new")) as new, serving(memory, old.base_url) as proxy:
        first = asyncio.create_task(ask(http, proxy, rollout))
        await has_come.wait()
        proxy.update_model_list([entry(new.base_url), entry(new.base_url, "judge")])
        assert await ask(http, proxy, rollout) == "new"
        assert await ask(http, proxy, rollout, "judge") == "new"
        may_go.set()
        assert await first == "old"
        models = (await http.get(f"{proxy.url}/models")).json()
    assert [model["id"] for model in models["data"]] == ["policy", "judge"]
    assert [backend.model_name for backend in proxy.model_list] == ["policy", "judge"]


async def test_calls_wait_while_weights_change_and_say_which_weights_answered(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    has_come, may_go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def script(exchange: Exchange) -> None:
        if len(backend.exchanges) == 1:
            loop.call_soon_threadsafe(has_come.set)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(may_go.wait(), loop))
        await exchange.answer(chat_answer("fine"))

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        await proxy.set_model_version("step-1")
        before = asyncio.create_task(ask(http, proxy, rollout))
        await has_come.wait()
        await proxy.pause()
        assert not await proxy.drain(timeout=0.05)
        updating = asyncio.create_task(_update(proxy, backend, may_go))
        during = asyncio.create_task(ask(http, proxy, rollout))
        assert await updating == 1
        await asyncio.gather(before, during)
    versions = [
        (
            span.attributes["agentlightning.generation.model_version"],
            "agentlightning.gateway.held_seconds" in span.attributes,
        )
        for span in await recorded(memory, rollout)
    ]
    assert versions == [("step-1", False), ("step-2", True)]


async def _update(proxy: LLMProxy, backend: ScriptedBackend, may_go: asyncio.Event) -> int:
    """Updates the weights; returns how many calls had reached the backend when it was drained."""
    asyncio.get_running_loop().call_later(0.05, may_go.set)
    async with proxy.weight_update("step-2"):
        return len(backend.exchanges)


async def test_one_model_can_be_paused_while_others_go_on(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say("fine")) as backend:
        models = [entry(backend.base_url), entry(backend.base_url, "judge", model_version="fixed")]
        async with serving(memory, model_list=models) as proxy:
            await proxy.pause("policy")
            assert await ask(http, proxy, rollout, "judge") == "fine"
            held = asyncio.create_task(ask(http, proxy, rollout))
            await proxy.resume("policy", model_version="2")
            assert await held == "fine"
            with pytest.raises(ValueError, match="no model 'other'"):
                await proxy.pause("other")
    by_model = {
        span.attributes["gen_ai.request.model"]: span.attributes["agentlightning.generation.model_version"]
        for span in await recorded(memory, rollout)
    }
    assert by_model == {"judge": "fixed", "policy": "2"}


async def test_calls_that_are_held_when_the_gateway_stops_are_refused(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say("fine")) as backend, serving(memory, backend.base_url) as proxy:
        await proxy.pause()
        url = f"{resource(proxy, rollout).endpoint}/chat/completions"
        held = asyncio.create_task(http.post(url, json=ASKED))
        # When the call has come, it has taken a number of its own.
        for taken in itertools.count(1):
            if await memory.get_next_span_sequence_id(rollout.rollout_id, rollout.attempt.attempt_id) != taken:
                break
            await asyncio.sleep(0.01)
        await proxy.stop()
        answer = await held
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert backend.exchanges == []


async def test_a_backend_may_say_itself_which_weights_answered(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(chat_answer("fine"), agentlightning_model_version="7")

    async with ScriptedBackend(script) as backend, serving(memory, backend.base_url) as proxy:
        await proxy.set_model_version("6")
        await ask(http, proxy, rollout)
    (span,) = await recorded(memory, rollout)
    assert span.attributes["agentlightning.generation.model_version"] == "7"


async def test_a_backend_that_asks_for_it_is_told_for_whom_a_call_is(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say("fine")) as told, ScriptedBackend(say("fine")) as other:
        models = [Backend("policy", told.base_url, told_of_attempts=True), Backend("judge", other.base_url)]
        async with serving(memory, model_list=models) as proxy:
            await ask(http, proxy, rollout)
            await ask(http, proxy, rollout, "judge")
    headers = told.exchanges[0].headers
    ids = headers["agentlightning-rollout-id"], headers["agentlightning-attempt-id"]
    assert ids == (rollout.rollout_id, rollout.attempt.attempt_id)
    assert not any(name.startswith("agentlightning-") for name in other.exchanges[0].headers)


async def test_ids_may_have_whatever_characters_the_store_takes(
    memory: InMemoryLightningStore, http: httpx.AsyncClient
) -> None:
    rollout = await memory.start_rollout({}, rollout_id="run:7%2Fü?#&=")
    async with ScriptedBackend(say("fine")) as backend, serving(memory, backend.base_url, require_keys=True) as proxy:
        llm = resource(proxy, rollout)
        headers = {"authorization": f"Bearer {llm.api_key}"}
        got = await http.post(f"{llm.endpoint}/chat/completions", json=ASKED, headers=headers)
    assert got.status_code == 200
    assert len(await recorded(memory, rollout)) == 1


async def test_calls_without_an_attempt_are_served_and_not_recorded(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, http: httpx.AsyncClient
) -> None:
    async with ScriptedBackend(say("fine")) as backend, serving(memory, backend.base_url) as proxy:
        assert (await http.post(f"{proxy.url}/chat/completions", json=ASKED)).status_code == 200
        # With or without the version, which clients add to a base URL or not.
        base = resource(proxy, rollout).endpoint
        for url in (base, base.removesuffix("/v1"), f"{base}/v1"):
            assert (await http.post(f"{url}/chat/completions", json=ASKED)).status_code == 200
    assert len(await recorded(memory, rollout)) == 3


def test_a_model_list_is_read_as_litellm_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    hosted, own, claude, plain = read_model_list(
        [
            {"model_name": "gpt", "litellm_params": {"model": "openai/gpt-5"}},
            {
                "model_name": "own",
                "litellm_params": {
                    "model": "hosted_vllm/Qwen/Qwen3-4B",
                    "api_base": "http://gpu:8000/v1/",
                    "api_key": "os.environ/MY_KEY",
                },
            },
            {"model_name": "claude", "litellm_params": {"model": "anthropic/claude-x", "api_key": "k"}},
            Backend("plain", "http://gpu:1/v1"),
        ]
    )
    assert (hosted.url, hosted.model, hosted.api_key) == ("https://api.openai.com/v1", "gpt-5", "sk-env")
    # Hosted APIs refuse parameters that they do not have.
    assert hosted.extras == ("usage",)
    assert (own.url_of("/completions"), own.model, own.api_key) == (
        "http://gpu:8000/v1/completions",
        "Qwen/Qwen3-4B",
        "sk-mine",
    )
    assert own.extras == ("token_ids", "logprobs", "usage")
    assert claude.protocol == "anthropic"
    assert claude.url_of("/messages") == "https://api.anthropic.com/v1/messages"
    assert plain.model == "plain"
    assert "sk-mine" not in repr(own)

"""A trainer hands its algorithm a gateway, and agents of both strategies call models through it."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from gateway_agents import CollectTriplets, ask_twice
from gateways import entry, serving
from openai_server import OpenAIServer, token_ids_of

from agentlightning import InMemoryLightningStore, LLMProxy, LlmProxyTraceToTriplet, Trainer, algo
from agentlightning.algorithm.utils import with_llm_proxy


@pytest.mark.parametrize("strategy", ["shm", "cs"])
def test_fit_trains_on_every_model_call_of_every_rollout(strategy: str, endpoint: OpenAIServer) -> None:
    algorithm = CollectTriplets()
    trainer = Trainer(
        algorithm=algorithm,
        n_runners=2,
        strategy=strategy,
        llm_proxy={"model_list": [entry(endpoint.base_url)], "require_keys": True},
        adapter=LlmProxyTraceToTriplet(),
    )
    assert isinstance(trainer.llm_proxy, LLMProxy)
    tasks = [f"task number {number}" for number in range(4)]
    trainer.fit(ask_twice, tasks)
    assert sorted(algorithm.triplets) == tasks
    for task, triplets in algorithm.triplets.items():
        assert [triplet.response["token_ids"] for triplet in triplets] == [token_ids_of(f"echo: {task}")] * 2
        assert [triplet.reward for triplet in triplets] == [None, 0.5]
    assert not trainer.llm_proxy.is_running()


async def test_an_algorithm_that_asks_for_the_gateway_gets_it_running(endpoint: OpenAIServer) -> None:
    proxy = LLMProxy(model_list=[entry(endpoint.base_url)], store=InMemoryLightningStore())

    class Asking(CollectTriplets):
        @with_llm_proxy(required=True)
        async def run(self, llm_proxy: LLMProxy, train_dataset: object = None, val_dataset: object = None) -> None:  # type: ignore[override]
            assert llm_proxy is proxy
            assert proxy.is_running()

    algorithm = Asking()
    algorithm.set_llm_proxy(proxy)
    await algorithm.run()
    assert not proxy.is_running()


def test_a_plain_algorithm_starts_the_gateway_by_asyncio_run(endpoint: OpenAIServer) -> None:
    served = []

    @algo
    def plain(llm_proxy: LLMProxy) -> None:
        asyncio.run(llm_proxy.start())
        served.append(llm_proxy.as_resource().model)
        asyncio.run(llm_proxy.stop())

    Trainer(algorithm=plain, strategy="shm", llm_proxy={"model_list": [entry(endpoint.base_url)]}).fit(ask_twice)
    assert served == ["policy"]


async def test_it_keeps_its_port_over_a_restart_and_is_sent_to_other_processes_only_at_rest(
    memory: InMemoryLightningStore, endpoint: OpenAIServer
) -> None:
    async with serving(memory, endpoint.base_url) as proxy:
        url = proxy.url
        await proxy.restart()
        assert (proxy.url, proxy.is_running()) == (url, True)
        with pytest.raises(RuntimeError, match="running already"):
            await proxy.start()
        with pytest.raises(TypeError, match="start it there"):
            pickle.dumps(proxy)
        other = LLMProxy(port=proxy.port, store=memory)
        with pytest.raises(OSError, match="Cannot listen"):
            await other.start()
        with pytest.raises(RuntimeError, match="another store"):
            proxy.set_store(InMemoryLightningStore())
    sent = pickle.loads(pickle.dumps(proxy))
    assert (sent.url, sent.get_store(), sent.model_list) == (url, None, proxy.model_list)
    with pytest.raises(ValueError, match="no store"):
        await sent.start()


def test_as_resource_wants_to_know_which_model_is_meant() -> None:
    several = LLMProxy(port=1234, model_list=[entry("http://host/v1", name) for name in ("policy", "judge")])
    with pytest.raises(ValueError, match="policy, judge"):
        several.as_resource()
    with pytest.raises(ValueError, match="no model 'other'"):
        several.as_resource(model="other")
    judge = several.as_resource("ro-1", "at-1", model="judge", sampling_parameters={"temperature": 0.1})
    assert judge.endpoint == "http://127.0.0.1:1234/rollout/ro-1/attempt/at-1/v1"
    assert (judge.model, judge.sampling_parameters) == ("judge", {"temperature": 0.1})
    with pytest.raises(ValueError, match="together"):
        several.as_resource("ro-1", model="judge")
    with pytest.raises(RuntimeError, match="no port yet"):
        LLMProxy(model_list=[entry("http://host/v1")]).as_resource()


def test_the_address_that_agents_get_is_one_that_they_can_reach() -> None:
    behind = {"port": 5, "model_list": [entry("http://host/v1")], "host": "0.0.0.0", "insecure": True}
    named = LLMProxy(**behind, access_host="gateway.example")  # type: ignore[arg-type]
    assert named.url == "http://gateway.example:5/v1"
    assert "0.0.0.0" not in LLMProxy(**behind).url  # type: ignore[arg-type]

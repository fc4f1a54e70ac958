"""The examples of the API reference run as they stand there, with `task: Task` where they read `task.input`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import OpenAI
from openai_server import OpenAIServer

from agentlightning import AgentLightningServer, LitAgentRunner, OtelTracer, get_object_value
from agentlightning.algorithm.decorator import algo
from agentlightning.client import AgentLightningClient
from agentlightning.litagent.decorator import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.trainer import Trainer
from agentlightning.types import LLM, NamedResources, PromptTemplate, RolloutLegacy, Task


@llm_rollout
def my_agent(task, llm):
    return llm.endpoint


@llm_rollout(strip_proxy=False)
def my_agent_no_strip(task, llm):
    return llm.model


@prompt_rollout
def my_prompt_agent(task: Task, prompt_template):
    messages = prompt_template.format(task=task.input)
    return messages  # noqa: RET504 - as it stands there


@rollout
def my_llm_agent(task: Task, llm):
    client = OpenAI(base_url=llm.endpoint)
    response = client.chat.completions.create(
        model=llm.model,
        messages=[{"role": "user", "content": task.input}],
    )
    return response  # noqa: RET504 - as it stands there


@algo
def batching_algorithm(*, store, train_dataset, val_dataset):
    for sample in train_dataset:
        store.enqueue_rollout(input=sample, mode="train")


@algo
async def async_algorithm(*, store, train_dataset=None, val_dataset=None):
    await store.enqueue_rollout(input={"prompt": "hello"}, mode="train")


@llm_rollout
def simple_agent(task: Task, llm):
    return f"Response to {task.input} using {llm.model}"


class Ran:
    """A store, a runner on it, and what a rollout left behind."""

    def __init__(self) -> None:
        self.store = InMemoryLightningStore()
        self.runner: LitAgentRunner[Any] = LitAgentRunner(OtelTracer(), heartbeat_interval=0)

    async def object_of(self, agent: FunctionalLitAgent[Any], task: Any, resources: NamedResources) -> Any:
        """Runs an agent once and returns the object that its trace holds."""
        with self.runner.run_context(agent=agent, store=self.store):
            finished = await self.runner.step(task, resources=resources)
        assert finished.status == "succeeded"
        objects = [get_object_value(span) for span in await self.store.query_spans(finished.rollout_id)]
        return next(value for value in objects if value is not None)


@pytest.fixture
def ran() -> Ran:
    return Ran()


@pytest_asyncio.fixture
async def legacy_server() -> AsyncIterator[AgentLightningServer]:
    with pytest.warns(DeprecationWarning, match="LightningStoreServer"):
        server = AgentLightningServer(host="127.0.0.1", port=0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


LLM_RESOURCES: NamedResources = {"main_llm": LLM(endpoint="http://127.0.0.1:1/v1", model="tiny")}


async def test_llm_rollout(ran: Ran) -> None:
    assert await ran.object_of(my_agent, "task", LLM_RESOURCES) == "http://127.0.0.1:1/v1"
    assert await ran.object_of(my_agent_no_strip, "task", LLM_RESOURCES) == "tiny"


async def test_prompt_rollout(ran: Ran) -> None:
    resources: NamedResources = {"prompt": PromptTemplate(template="Do: {task}", engine="f-string")}
    assert await ran.object_of(my_prompt_agent, "dishes", resources) == "Do: dishes"


async def test_rollout_that_returns_what_the_model_answered(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    with OpenAIServer() as server:
        resources: NamedResources = {"main_llm": LLM(endpoint=server.base_url, model="tiny")}
        kept = await ran.object_of(my_llm_agent, "Say hello.", resources)
    assert kept["object"] == "chat.completion"
    assert kept["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize(
    ("algorithm", "inputs"), [(batching_algorithm, [1, 2]), (async_algorithm, [{"prompt": "hello"}])]
)
def test_algo(algorithm: Any, inputs: list[Any]) -> None:
    store = InMemoryLightningStore()
    # The dataset of one is not asked for by the other.
    Trainer(algorithm=algorithm, store=store, strategy="shm", progress=False).fit(my_agent, [1, 2])
    assert [queued["input"] for queued in _queued(store)] == inputs


def test_trainer_for_an_agent_that_returns_text() -> None:
    store = InMemoryLightningStore()
    trainer = Trainer(store=store, n_runners=2, max_rollouts=10)
    assert (trainer.n_runners, trainer.max_rollouts, trainer.store) == (2, 10, store)


async def test_agent_that_returns_text(ran: Ran) -> None:
    assert await ran.object_of(simple_agent, "question", LLM_RESOURCES) == "Response to question using tiny"


async def test_legacy_client_polls_and_posts(legacy_server: AgentLightningServer) -> None:
    @llm_rollout
    def simple_agent(task: Task, llm):
        with pytest.warns(DeprecationWarning, match="RolloutLegacy"):
            return RolloutLegacy(rollout_id=task.rollout_id, final_reward=1.0, metadata={"model": llm.model})

    def deployed() -> None:
        with pytest.warns(DeprecationWarning, match="LightningStoreClient"):
            client = AgentLightningClient(endpoint=legacy_server.endpoint)
        resources, rollout = LLM_RESOURCES, None
        task = client.poll_next_task()
        if task:
            result = simple_agent.rollout(task, resources, rollout)
            client.post_rollout(result)

    await legacy_server.update_resources(LLM_RESOURCES)
    rollout_id = await legacy_server.queue_task({"prompt": "hello"}, mode="train")
    await asyncio.to_thread(deployed)
    posted = await legacy_server.poll_completed_rollout(rollout_id, timeout=10)
    assert posted is not None
    assert (posted.final_reward, posted.metadata["model"]) == (1.0, "tiny")


def _queued(store: InMemoryLightningStore) -> list[dict[str, Any]]:
    from agentlightning.store.blocking import BlockingStore

    return [rollout.model_dump() for rollout in BlockingStore(store).query_rollouts()]

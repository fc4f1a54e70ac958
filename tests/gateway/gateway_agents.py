"""An agent and an algorithm that meet at a gateway."""

from __future__ import annotations

from typing import Any

import openai

import agentlightning as agl


@agl.rollout
async def ask_twice(task: str, llm: agl.LLM) -> float:
    """Has two turns with the model."""
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key, max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": task}]
        first = await client.chat.completions.create(model=llm.model, messages=messages)
        messages += [{"role": "assistant", "content": first.choices[0].message.content}, messages[0]]
        await client.chat.completions.create(model=llm.model, messages=messages)
    return 0.5


class CollectTriplets(agl.Algorithm):
    """Runs samples with the model behind the gateway, and keeps the triplets of each."""

    def __init__(self) -> None:
        self.triplets: dict[str, list[agl.Triplet]] = {}

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        """Runs each sample once."""
        store, proxy, adapter = self.get_store(), self.get_llm_proxy(), self.get_adapter()
        assert proxy is not None
        await proxy.start()
        try:
            await store.add_resources({"llm": proxy.as_resource()})
            enqueued = [await store.enqueue_rollout(sample) for sample in train_dataset]
            async for rollout in store.wait_iter(rollout_ids=[each.rollout_id for each in enqueued], timeout=60):
                self.triplets[rollout.input] = adapter.adapt(await store.query_spans(rollout.rollout_id))
        finally:
            await proxy.stop()

"""Rollouts of one of verl's workers: a gateway before verl's engine, and runners at the store that run the agent."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from agentlightning.adapter.triplet import LlmProxyTraceToTriplet
from agentlightning.algorithm.policies.calls import (
    LLM_RESOURCE,
    ModelCall,
    UnusableSpans,
    read_calls,
    why_without_reward,
)
from agentlightning.algorithm.policies.requests import ServedModel
from agentlightning.algorithm.policies.server import PolicyServer
from agentlightning.algorithm.verl.leftovers import cancel
from agentlightning.algorithm.verl.sampler import Conversation, EngineSampler
from agentlightning.algorithm.verl.settings import VERLSettings
from agentlightning.emitter.reward import find_final_reward
from agentlightning.llm_proxy import Backend, LLMProxy
from agentlightning.store.base import LightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import EnqueueRolloutRequest, NamedResources, Rollout, RolloutMode

logger = logging.getLogger(__name__)

MODEL: Final = "policy"
"""Begins the names by which agents call the model; there is one for each way of sampling that verl asks for."""
# The engine may be silent for long; what ends a call that takes too long is the limit of its rollout.
_SILENCE_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True)
class Finished:
    """What came of a rollout."""

    rollout_id: str
    """The rollout."""
    reward: float | None
    """Its final reward; None if it failed or reported none."""
    calls: Sequence[ModelCall]
    """Its calls of the model, in the order in which they were made; none if the agent made none here."""
    conversation: Conversation
    """What verl's engine had to do for it."""


class Rollouts:
    """Has runners run the agent, with verl's engine as its model. Made by `serving_rollouts`."""

    def __init__(
        self, settings: VERLSettings, store: LightningStore, sampler: EngineSampler, most_response: int
    ) -> None:
        """Prepares; `start` serves.

        Args:
            settings: Where, and within which limits.
            store: Where the runners are met.
            sampler: Answers the calls of agents.
            most_response: How many tokens an answer may have that is asked for no limit.
        """
        self._settings = settings
        self._store = store
        self._sampler = sampler
        self._most_response = most_response
        self._models: dict[str, ServedModel] = {}
        self._server = PolicyServer(sampler, self._models)
        self._proxy = LLMProxy(
            store=store,
            host=settings.gateway_host,
            insecure=settings.insecure,
            # Others than this machine's may call it then.
            require_keys=settings.insecure,
        )
        self._resources: dict[str, asyncio.Task[str]] = {}
        self._adapter = LlmProxyTraceToTriplet()

    async def start(self) -> None:
        """Serves the model.

        Raises:
            OSError: An address cannot be listened on.
        """
        await self._server.start()
        await self._proxy.start()

    async def stop(self) -> None:
        """Serves it no more."""
        await self._proxy.stop()
        await self._server.stop()

    async def run(
        self, task: Any, mode: RolloutMode, sampling_params: Mapping[str, Any], metadata: dict[str, Any]
    ) -> Finished:
        """Enqueues one rollout and returns when it has finished. A rollout that is waited for no more is cancelled.

        Args:
            task: What to ask the agent to do.
            mode: The mode of the rollout.
            sampling_params: What verl asks of its engine.
            metadata: What to note with the rollout.
        """
        request = EnqueueRolloutRequest(
            input=task,
            mode=mode,
            resources_id=await self._resources_for(sampling_params),
            config=self._settings.rollout,
            metadata={"run": self._settings.run, **metadata},
            rollout_id=f"{self._settings.run}-{uuid.uuid4().hex}",
        )
        rollout_id = str(request.rollout_id)
        async with self._sampler.conversation(rollout_id, sampling_params) as conversation:
            try:
                await self._store.enqueue_many_rollouts([request])
                async with aclosing(self._store.wait_iter(rollout_ids=[rollout_id])) as finishing:
                    rollout = await anext(finishing, None)
            except BaseException:
                await cancel(self._store, rollout_id)
                raise
        finished = await self._read(rollout_id, rollout, float(sampling_params["temperature"]), conversation)
        if mode == "train":
            _warn_of_temperatures(finished, float(sampling_params["temperature"]))
        return finished

    async def _read(
        self, rollout_id: str, rollout: Rollout | None, temperature: float, conversation: Conversation
    ) -> Finished:
        spans = await self._store.query_spans(rollout_id, "latest")
        reward = find_final_reward(spans) if rollout is not None and rollout.status == "succeeded" else None
        if reward is None:
            reason = "it was deleted" if rollout is None else why_without_reward(rollout)
            logger.warning("rollout %s does not train: %s", rollout_id, reason)
        try:
            calls = read_calls(self._adapter.adapt(spans), temperature, self._models)
        except UnusableSpans as error:
            calls = []
            if reward is not None:
                logger.warning("rollout %s does not train: %s", rollout_id, error)
        return Finished(rollout_id, reward, calls, conversation)

    async def _resources_for(self, sampling_params: Mapping[str, Any]) -> str:
        """Returns the id of the resources whose model samples in a certain way."""
        way = json.dumps(sampling_params, sort_keys=True, default=str)
        if way not in self._resources:
            publishing = self._resources[way] = asyncio.create_task(self._publish(sampling_params))
            publishing.add_done_callback(partial(self._forget_failed, way))
        return await asyncio.shield(self._resources[way])

    def _forget_failed(self, way: str, publishing: asyncio.Task[str]) -> None:
        # The next rollout tries again.
        if publishing.cancelled() or publishing.exception() is not None:
            del self._resources[way]

    async def _publish(self, sampling_params: Mapping[str, Any]) -> str:
        initial = await self._initial_resources()
        temperature, top_p = float(sampling_params["temperature"]), float(sampling_params.get("top_p", 1.0))
        name = f"{MODEL}-{len(self._models)}" if self._models else MODEL
        self._models[name] = ServedModel(temperature, self._most_response, top_p)
        backend = Backend(name, self._server.url, told_of_attempts=True, timeout=_SILENCE_SECONDS)
        self._proxy.update_model_list([*self._proxy.model_list, backend])
        llm = self._proxy.as_resource(model=name, sampling_parameters={"temperature": temperature, "top_p": top_p})
        resources_id = f"{self._settings.run}-{uuid.uuid4().hex}"
        await self._store.update_resources(resources_id, {LLM_RESOURCE: llm, **initial})
        return resources_id

    async def _initial_resources(self) -> NamedResources:
        if self._settings.resources_id is None:
            return {}
        kept = await self._store.get_resources_by_id(self._settings.resources_id)
        if kept is None:
            raise ValueError(
                f"the store has no resources {self._settings.resources_id!r}; see agentlightning.resources_id"
            )
        return kept.resources


def _warn_of_temperatures(finished: Finished, trained: float) -> None:
    # A greedy call has the probabilities of temperature 1.
    if others := {call.temperature for call in finished.calls} - {trained or 1.0}:
        logger.warning(
            "rollout %s: calls asked for temperature %s, and verl computes probabilities for %g: leave it out of the "
            "agent's calls, or set actor_rollout_ref.rollout.temperature",
            finished.rollout_id,
            ", ".join(f"{each:g}" for each in sorted(others)),
            trained,
        )


@asynccontextmanager
async def serving_rollouts(
    settings: VERLSettings, sampler: EngineSampler, most_response: int
) -> AsyncIterator[Rollouts]:
    """Connects to the store and serves the model as long as the block runs; see `Rollouts`."""
    async with AsyncExitStack() as stack:
        store = LightningStoreClient(settings.store, experiment=settings.experiment)
        stack.push_async_callback(store.close)
        rollouts = Rollouts(settings, store, sampler, most_response)
        stack.push_async_callback(rollouts.stop)
        await rollouts.start()
        yield rollouts

"""The store over HTTP as release 0.2.2 has it: one route for each method of its `LightningStore`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, BeforeValidator

from agentlightning.rest import store_bodies as bodies
from agentlightning.rest.answers import answer
from agentlightning.rest.browsers import refuse_pages
from agentlightning.rest.presence import while_present
from agentlightning.rest.store_routes import claimed, found_spans
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    NamedResources,
    ResourcesUpdate,
    Rollout,
    RolloutStatus,
    Span,
)

_UNSET = {"_type": "UNSET"}


def _without_unset(body: Any) -> Any:
    return {name: value for name, value in body.items() if value != _UNSET} if isinstance(body, Mapping) else body


class _RolloutChange(bodies.RolloutChange):
    rollout_id: str


class _AttemptChange(bodies.AttemptChange):
    rollout_id: str
    attempt_id: str


class _RolloutQuery(BaseModel):
    status: list[RolloutStatus] | None = None
    rollout_ids: list[str] | None = None


class _Resources(BaseModel):
    resources: NamedResources


class _ResourcesChange(_Resources):
    resources_id: str


def store_routes_0_2(store: LightningStore) -> APIRouter:
    """Makes the routes over a store. What there is not is `null`, which is no error."""
    router = APIRouter(tags=["store, as in 0.2.2"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Tells that this server answers."""
        return {"status": "ok"}

    @router.post("/start_rollout", response_model=AttemptedRollout)
    async def start_rollout(body: EnqueueRolloutRequest) -> Response:
        """Creates a rollout with its first attempt; it is never queued."""
        return answer(await store.start_rollout(**dict(body)))

    @router.post("/enqueue_rollout", response_model=Rollout)
    async def enqueue_rollout(body: EnqueueRolloutRequest) -> Response:
        """Puts a rollout at the end of the queue."""
        return answer(await store.enqueue_rollout(**dict(body)))

    @router.get("/dequeue_rollout", response_model=AttemptedRollout | None, dependencies=[Depends(refuse_pages)])
    async def dequeue_rollout(request: Request) -> Response:
        """Claims the rollout that has waited longest, and begins an attempt of it."""
        rollouts = await claimed(store, request, 1)
        return answer(rollouts[0] if rollouts else None)

    @router.post("/start_attempt", response_model=AttemptedRollout)
    async def start_attempt(body: bodies.RolloutKey) -> Response:
        """Begins a further attempt of a rollout."""
        return answer(await store.start_attempt(body.rollout_id))

    @router.post("/query_rollouts", response_model=list[Rollout])
    async def query_rollouts(body: _RolloutQuery) -> Response:
        """Lists rollouts."""
        found = await store.query_rollouts(status_in=body.status, rollout_id_in=body.rollout_ids)
        return answer(list(found))

    @router.get("/query_attempts/{rollout_id}", response_model=list[Attempt])
    async def query_attempts(rollout_id: str) -> Response:
        """Lists the attempts of a rollout."""
        return answer(list(await store.query_attempts(rollout_id)))

    @router.get("/get_latest_attempt/{rollout_id}", response_model=Attempt | None)
    async def get_latest_attempt(rollout_id: str) -> Response:
        """Returns the attempt with the highest number."""
        return answer(await store.get_latest_attempt(rollout_id))

    @router.get("/get_rollout_by_id/{rollout_id}", response_model=Rollout | None)
    async def get_rollout_by_id(rollout_id: str) -> Response:
        """Returns a rollout."""
        return answer(await store.get_rollout_by_id(rollout_id))

    @router.post("/add_resources", response_model=ResourcesUpdate)
    async def add_resources(body: _Resources) -> Response:
        """Publishes a set of resources, which becomes the latest."""
        return answer(await store.add_resources(body.resources))

    @router.post("/update_resources", response_model=ResourcesUpdate)
    async def update_resources(body: _ResourcesChange) -> Response:
        """Replaces a set of resources, which becomes the latest."""
        return answer(await store.update_resources(body.resources_id, body.resources))

    @router.get("/get_resources_by_id/{resources_id}", response_model=ResourcesUpdate | None)
    async def get_resources_by_id(resources_id: str) -> Response:
        """Returns one set of resources."""
        return answer(await store.get_resources_by_id(resources_id))

    @router.get("/get_latest_resources", response_model=ResourcesUpdate | None)
    async def get_latest_resources() -> Response:
        """Returns the resources that were published last."""
        return answer(await store.get_latest_resources())

    @router.post("/add_span", response_model=Span)
    async def add_span(span: Span) -> Response:
        """Stores a span."""
        return answer(await store.add_span(span) or span)  # its client knows of no span that was there before

    @router.get("/get_next_span_sequence_id/{rollout_id}/{attempt_id}", response_model=int)
    async def get_next_span_sequence_id(rollout_id: str, attempt_id: str) -> Response:
        """Takes the next number for a span of a rollout."""
        return answer(await store.get_next_span_sequence_id(rollout_id, attempt_id))

    @router.post("/wait_for_rollouts", response_model=list[Rollout])
    async def wait_for_rollouts(request: Request, body: Annotated[bodies.Wait, Body()]) -> Response:
        """Returns those of the rollouts that have finished, when all have or the time is up."""
        return answer(await while_present(request, store.wait_for_rollouts(**body), []))

    @router.get("/query_spans/{rollout_id}", response_model=list[Span])
    async def query_spans(rollout_id: str, attempt_id: str | None = None) -> Response:
        """Lists the spans of a rollout."""
        return answer(list(await found_spans(store, rollout_id, attempt_id=attempt_id)))

    @router.post("/update_rollout", response_model=Rollout)
    async def update_rollout(body: Annotated[_RolloutChange, BeforeValidator(_without_unset), Body()]) -> Response:
        """Changes a rollout: the algorithm's own word."""
        return answer(await store.update_rollout(**body))

    @router.post("/update_attempt", response_model=Attempt)
    async def update_attempt(body: Annotated[_AttemptChange, BeforeValidator(_without_unset), Body()]) -> Response:
        """Reports on an attempt, `latest` for that with the highest number."""
        return answer(await store.update_attempt(**body))

    return router

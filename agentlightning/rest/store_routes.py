"""The store over HTTP as release 0.3.0 has it: every method of `LightningStore` under `/v1/agl`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request, Response
from fastapi import Query as InUrl

from agentlightning.rest import store_bodies as bodies
from agentlightning.rest.answers import answer
from agentlightning.rest.presence import while_present
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    NamedResources,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    Span,
    Worker,
)

PREFIX = "/v1/agl"
"""Where the routes are."""

_AT_ONCE = 0.1


def store_routes(store: LightningStore) -> APIRouter:
    """Makes the routes over a store. What there is not is `null`, which is no error."""
    router = APIRouter(prefix=PREFIX, tags=["store"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Tells that this server answers. Clients that ask before they try again need no more."""
        return {"status": "ok"}

    @router.get("/statistics", response_model=dict[str, Any])
    async def statistics() -> Response:
        """Returns the totals of the store."""
        return answer(await store.statistics())

    @router.post("/queues/rollouts/enqueue", status_code=201, response_model=list[Rollout])
    async def enqueue_rollouts(body: bodies.NewRollouts) -> Response:
        """Puts rollouts at the end of the queue."""
        return answer(await store.enqueue_many_rollouts(body.rollouts), 201)

    @router.post("/queues/rollouts/dequeue", response_model=list[AttemptedRollout])
    async def dequeue_rollouts(request: Request, body: bodies.Claim | None = None) -> Response:
        """Claims the rollouts that have waited longest, and begins an attempt of each."""
        claim = body or bodies.Claim()
        return answer(await claimed(store, request, claim.limit, claim.worker_id))

    @router.post("/rollouts", status_code=201, response_model=AttemptedRollout)
    async def start_rollout(body: bodies.StartedRollout) -> Response:
        """Creates a rollout with its first attempt; it is never queued."""
        return answer(await store.start_rollout(**dict(body)), 201)

    @router.get("/rollouts", response_model=PaginatedResult[Rollout])
    async def list_rollouts(query: Annotated[bodies.RolloutQuery, InUrl()]) -> Response:
        """Lists rollouts."""
        return answer(await store.query_rollouts(**query.given()))

    @router.post("/rollouts/search", response_model=PaginatedResult[Rollout])
    async def search_rollouts(query: bodies.RolloutQuery) -> Response:
        """Lists rollouts. Here a list may be empty, which matches nothing."""
        return answer(await store.query_rollouts(**query.given()))

    @router.get("/rollouts/{rollout_id}", response_model=AttemptedRollout | Rollout | None)
    async def get_rollout(rollout_id: str) -> Response:
        """Returns a rollout, with its latest attempt if it has one."""
        return answer(await store.get_rollout_by_id(rollout_id))

    @router.post("/rollouts/{rollout_id}", response_model=Rollout)
    async def update_rollout(rollout_id: str, body: Annotated[bodies.RolloutChange, Body()]) -> Response:
        """Changes a rollout: the algorithm's own word."""
        return answer(await store.update_rollout(rollout_id, **body))

    @router.post("/rollouts/{rollout_id}/attempts", status_code=201, response_model=AttemptedRollout)
    async def start_attempt(rollout_id: str, body: Annotated[bodies.NewAttempt | None, Body()] = None) -> Response:
        """Begins a further attempt of a rollout."""
        return answer(await store.start_attempt(rollout_id, **(body or {})), 201)

    @router.get("/rollouts/{rollout_id}/attempts", response_model=PaginatedResult[Attempt])
    async def list_attempts(rollout_id: str, query: Annotated[bodies.AttemptQuery, InUrl()]) -> Response:
        """Lists the attempts of a rollout."""
        return answer(await store.query_attempts(rollout_id, **query.given()))

    @router.post("/rollouts/{rollout_id}/attempts/search", response_model=PaginatedResult[Attempt])
    async def search_attempts(rollout_id: str, query: bodies.AttemptQuery) -> Response:
        """Lists the attempts of a rollout."""
        return answer(await store.query_attempts(rollout_id, **query.given()))

    @router.get("/rollouts/{rollout_id}/attempts/latest", response_model=Attempt | None)
    async def get_latest_attempt(rollout_id: str) -> Response:
        """Returns the attempt with the highest number."""
        return answer(await store.get_latest_attempt(rollout_id))

    @router.post("/rollouts/{rollout_id}/attempts/{attempt_id}", response_model=Attempt)
    async def update_attempt(
        rollout_id: str, attempt_id: str, body: Annotated[bodies.AttemptChange, Body()]
    ) -> Response:
        """Reports on an attempt, `latest` for that with the highest number."""
        return answer(await store.update_attempt(rollout_id, attempt_id, **body))

    @router.post("/waits/rollouts", response_model=list[Rollout])
    async def wait_for_rollouts(request: Request, body: Annotated[bodies.Wait, Body()]) -> Response:
        """Returns those of the rollouts that have finished, when all have or the time is up."""
        return answer(await while_present(request, store.wait_for_rollouts(**body), []))

    @router.get("/resources", response_model=PaginatedResult[ResourcesUpdate])
    async def list_resources(query: Annotated[bodies.ResourcesQuery, InUrl()]) -> Response:
        """Lists sets of resources."""
        return answer(await store.query_resources(**query.given()))

    @router.post("/resources", status_code=201, response_model=ResourcesUpdate)
    async def add_resources(resources: NamedResources) -> Response:
        """Publishes a set of resources, which becomes the latest."""
        return answer(await store.add_resources(resources), 201)

    @router.get("/resources/latest", response_model=ResourcesUpdate | None)
    async def get_latest_resources() -> Response:
        """Returns the resources that were published last."""
        return answer(await store.get_latest_resources())

    @router.get("/resources/{resources_id}", response_model=ResourcesUpdate | None)
    async def get_resources(resources_id: str) -> Response:
        """Returns one set of resources."""
        return answer(await store.get_resources_by_id(resources_id))

    @router.post("/resources/{resources_id}", response_model=ResourcesUpdate)
    async def update_resources(resources_id: str, resources: NamedResources) -> Response:
        """Replaces a set of resources, which becomes the latest."""
        return answer(await store.update_resources(resources_id, resources))

    @router.get("/workers", response_model=PaginatedResult[Worker])
    async def list_workers(query: Annotated[bodies.WorkerQuery, InUrl()]) -> Response:
        """Lists workers."""
        return answer(await store.query_workers(**query.given()))

    @router.post("/workers/search", response_model=PaginatedResult[Worker])
    async def search_workers(query: bodies.WorkerQuery) -> Response:
        """Lists workers. Here a list may be empty, which matches nothing."""
        return answer(await store.query_workers(**query.given()))

    @router.get("/workers/{worker_id}", response_model=Worker | None)
    async def get_worker(worker_id: str) -> Response:
        """Returns a worker."""
        return answer(await store.get_worker_by_id(worker_id))

    @router.post("/workers/{worker_id}", response_model=Worker)
    async def update_worker(worker_id: str, body: Annotated[bodies.Heartbeat | None, Body()] = None) -> Response:
        """Takes the heartbeat of a worker."""
        return answer(await store.update_worker(worker_id, **(body or {})))

    @router.post("/spans", status_code=201, response_model=Span | None)
    async def add_span(span: Span) -> Response:
        """Stores a span; `null` if it was stored before."""
        return answer(await store.add_span(span), 201)

    @router.get("/spans", response_model=PaginatedResult[Span])
    async def list_spans(query: Annotated[bodies.SpanQuery, InUrl()]) -> Response:
        """Lists the spans of a rollout."""
        return answer(await found_spans(store, **query.given()))

    @router.post("/spans/search", response_model=PaginatedResult[Span])
    async def search_spans(query: bodies.SpanQuery) -> Response:
        """Lists the spans of a rollout."""
        return answer(await found_spans(store, **query.given()))

    @router.post("/spans/next", response_model=bodies.SequenceId)
    async def next_sequence_id(body: bodies.AttemptKey) -> Response:
        """Takes the next number for a span of a rollout."""
        number = await store.get_next_span_sequence_id(body.rollout_id, body.attempt_id)
        return answer({"sequence_id": number})

    return router


async def claimed(
    store: LightningStore, request: Request, limit: int, worker_id: str | None = None
) -> list[AttemptedRollout]:
    """Claims rollouts for a client; if it got tired of waiting, they go back to their old places in the queue."""
    begun = time.monotonic()
    rollouts = await store.dequeue_many_rollouts(limit=limit, worker_id=worker_id)
    # To look costs as much as the claim itself, and who is answered at once has not left.
    if rollouts and time.monotonic() - begun > _AT_ONCE and await request.is_disconnected():
        await store.release_attempts([(rollout.rollout_id, rollout.attempt.attempt_id) for rollout in rollouts])
        return []
    return list(rollouts)


async def found_spans(store: LightningStore, rollout_id: str, **conditions: Any) -> Sequence[Span]:
    """Lists spans.

    Raises:
        HTTPException: The store has dropped some of them (410).
    """
    try:
        return await store.query_spans(rollout_id, **conditions)
    except RuntimeError as error:
        raise HTTPException(410, str(error)) from error

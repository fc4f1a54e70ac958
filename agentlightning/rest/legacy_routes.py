"""The four routes of the legacy REST API."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException, Response

from agentlightning.rest.answers import answer
from agentlightning.rest.browsers import refuse_pages
from agentlightning.rest.reports import record_report
from agentlightning.store.base import LightningStore
from agentlightning.types import GenericResponse, ResourcesUpdate, RolloutLegacy, Task, TaskIfAny


def legacy_routes(store: LightningStore, lease: float) -> APIRouter:
    """Makes the routes.

    Args:
        store: Where tasks and resources come from and reports go to.
        lease: Seconds until a task that was handed out and not reported on is handed out again.
    """
    router = APIRouter()

    @router.get("/task", response_model=TaskIfAny, dependencies=[Depends(refuse_pages)])
    async def next_task() -> Response:
        """Hands out the next task, if there is one. A client that goes away loses nothing: the task comes back."""
        claimed = await store.dequeue_rollout(lease=lease)
        task = None if claimed is None else Task.of_rollout(claimed, claimed.input)
        return answer({"is_available": task is not None, "task": task})

    @router.get("/resources/latest")
    async def latest_resources() -> ResourcesUpdate:
        """Returns the resources that were published last."""
        resources = await store.get_latest_resources()
        if resources is None:
            raise HTTPException(404, "No resources have been set on the server.")
        return resources

    @router.get("/resources/{resource_id}")
    async def resources_by_id(resource_id: str) -> ResourcesUpdate:
        """Returns one published set of resources."""
        resources = await store.get_resources_by_id(resource_id)
        if resources is None:
            raise HTTPException(404, f"Resource ID '{resource_id}' not found.")
        return resources

    @router.post("/rollout")
    async def post_rollout(rollout: RolloutLegacy) -> GenericResponse:
        """Takes what became of a task."""
        await record_report(store, rollout)
        return GenericResponse(status="ok", message=f"Rollout {rollout.rollout_id} received and stored.")

    return router

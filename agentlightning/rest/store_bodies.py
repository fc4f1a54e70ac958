"""What the store's routes take.

A body is a dictionary where a field that is left out is left as it is: with it, the method of the store is called. A
query is a model, because it also comes as the query of a URL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

# Not typing's: before Python 3.12 pydantic takes no other.
from typing_extensions import NotRequired, TypedDict

from agentlightning.types import (
    AttemptStatus,
    EnqueueRolloutRequest,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    WorkerStatus,
)

SortOrder = Literal["asc", "desc"]
FilterLogic = Literal["and", "or"]


class StartedRollout(EnqueueRolloutRequest):
    """A rollout to create, for a worker that runs it itself."""

    worker_id: str | None = None


class NewRollouts(BaseModel):
    """Rollouts to put into the queue."""

    rollouts: list[EnqueueRolloutRequest]


class Claim(BaseModel):
    """A request for work."""

    limit: int = 1
    worker_id: str | None = None


class NewAttempt(TypedDict, total=False):
    """An attempt to begin."""

    worker_id: str | None


class RolloutChange(TypedDict, total=False):
    """A change of a rollout."""

    input: Any
    mode: RolloutMode | None
    resources_id: str | None
    status: RolloutStatus
    config: RolloutConfig
    metadata: dict[str, Any] | None


class AttemptChange(TypedDict, total=False):
    """A report on an attempt."""

    status: AttemptStatus
    worker_id: str | None
    last_heartbeat_time: float
    metadata: dict[str, Any] | None


class Heartbeat(TypedDict, total=False):
    """A worker's sign of life."""

    heartbeat_stats: dict[str, Any]


class RolloutKey(BaseModel):
    """Names a rollout."""

    rollout_id: str


class AttemptKey(BaseModel):
    """Names an attempt."""

    rollout_id: str
    attempt_id: str


class SequenceId(BaseModel):
    """The number of a span."""

    sequence_id: int


class Wait(TypedDict):
    """Rollouts to wait for, and for how many seconds; without a time it lasts until all have finished."""

    rollout_ids: list[str]
    timeout: NotRequired[float | None]


class Query(BaseModel):
    """What every list can be asked for."""

    limit: Annotated[int, Field(ge=-1)] = -1
    offset: Annotated[int, Field(ge=0)] = 0
    sort_by: str | None = None
    sort_order: SortOrder = "asc"

    def given(self) -> dict[str, Any]:
        """Returns the arguments for the store's method: what was asked for, and nothing of the defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class RolloutQuery(Query):
    """Which rollouts to list."""

    status_in: list[RolloutStatus] | None = None
    rollout_id_in: list[str] | None = None
    rollout_id_contains: str | None = None
    filter_logic: FilterLogic = "and"


class AttemptQuery(Query):
    """Which attempts to list."""


class ResourcesQuery(Query):
    """Which sets of resources to list."""

    resources_id: str | None = None
    resources_id_contains: str | None = None


class WorkerQuery(Query):
    """Which workers to list."""

    status_in: list[WorkerStatus] | None = None
    worker_id_contains: str | None = None
    filter_logic: FilterLogic = "and"


class SpanQuery(Query):
    """Which spans to list."""

    rollout_id: str
    attempt_id: str | None = None
    trace_id: str | None = None
    trace_id_contains: str | None = None
    span_id: str | None = None
    span_id_contains: str | None = None
    parent_id: str | None = None
    parent_id_contains: str | None = None
    name: str | None = None
    name_contains: str | None = None
    filter_logic: FilterLogic = "and"

"""The contract as a Python protocol: one method for each RPC, in process and over gRPC alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from lightning_store import v1

DEFAULT_EXPERIMENT = "default"
"""The experiment of a call that names none."""

LATEST = "latest"
"""Stands for the attempt with the highest number."""

LONGEST_POLL = 60.0
"""Seconds for which DequeueRollouts is held at most, whatever the call asks for."""

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message that a server with its default settings accepts, and the largest request that a client sends."""


MOST_ITEMS = 1000
"""Most rollouts or attempts that one call creates, claims, deletes, hands back or holds, and most items of a page."""

MOST_SPANS = 10_000
"""Most spans of a page."""

MOST_IDS = 10_000
"""Most ids that a filter or a wait may name."""


def _present() -> bool:
    return True


@dataclass(frozen=True)
class CallContext:
    """What a call carries beside its request."""

    experiment: str = DEFAULT_EXPERIMENT
    """The experiment that the call works on."""
    principal: str | None = None
    """Who calls; None where nobody is asked."""
    timeout: float | None = None
    """Seconds until the caller stops waiting for the answer; None for no limit of its own."""
    is_present: Callable[[], bool] = _present
    """Tells whether the caller is still there; a caller that has gone claims nothing."""


class StoreApi(Protocol):
    """The services of the contract. Methods are the RPCs in snake case; the `.proto` files say what each promises.

    A call that fails raises a `StoreError`. The streaming methods return async generators, which the caller closes.
    """

    async def start_rollout(self, context: CallContext, request: v1.StartRolloutRequest) -> v1.StartRolloutResponse: ...

    async def enqueue_rollouts(
        self, context: CallContext, request: v1.EnqueueRolloutsRequest
    ) -> v1.EnqueueRolloutsResponse: ...

    async def dequeue_rollouts(
        self, context: CallContext, request: v1.DequeueRolloutsRequest
    ) -> v1.DequeueRolloutsResponse: ...

    async def get_rollout(self, context: CallContext, request: v1.GetRolloutRequest) -> v1.GetRolloutResponse: ...

    async def list_rollouts(self, context: CallContext, request: v1.ListRolloutsRequest) -> v1.ListRolloutsResponse: ...

    async def update_rollout(
        self, context: CallContext, request: v1.UpdateRolloutRequest
    ) -> v1.UpdateRolloutResponse: ...

    async def delete_rollouts(
        self, context: CallContext, request: v1.DeleteRolloutsRequest
    ) -> v1.DeleteRolloutsResponse: ...

    def wait_for_rollouts(
        self, context: CallContext, request: v1.WaitForRolloutsRequest
    ) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]: ...

    def watch_rollouts(
        self, context: CallContext, request: v1.WatchRolloutsRequest
    ) -> AsyncGenerator[v1.WatchRolloutsResponse, None]: ...

    async def start_attempt(self, context: CallContext, request: v1.StartAttemptRequest) -> v1.StartAttemptResponse: ...

    async def update_attempt(
        self, context: CallContext, request: v1.UpdateAttemptRequest
    ) -> v1.UpdateAttemptResponse: ...

    async def release_attempts(
        self, context: CallContext, request: v1.ReleaseAttemptsRequest
    ) -> v1.ReleaseAttemptsResponse: ...

    async def list_attempts(self, context: CallContext, request: v1.ListAttemptsRequest) -> v1.ListAttemptsResponse: ...

    async def get_latest_attempt(
        self, context: CallContext, request: v1.GetLatestAttemptRequest
    ) -> v1.GetLatestAttemptResponse: ...

    async def add_spans(self, context: CallContext, request: v1.AddSpansRequest) -> v1.AddSpansResponse: ...

    async def list_spans(self, context: CallContext, request: v1.ListSpansRequest) -> v1.ListSpansResponse: ...

    async def reserve_span_sequence_ids(
        self, context: CallContext, request: v1.ReserveSpanSequenceIdsRequest
    ) -> v1.ReserveSpanSequenceIdsResponse: ...

    async def add_resources(self, context: CallContext, request: v1.AddResourcesRequest) -> v1.AddResourcesResponse: ...

    async def update_resources(
        self, context: CallContext, request: v1.UpdateResourcesRequest
    ) -> v1.UpdateResourcesResponse: ...

    async def get_resources(self, context: CallContext, request: v1.GetResourcesRequest) -> v1.GetResourcesResponse: ...

    async def get_latest_resources(
        self, context: CallContext, request: v1.GetLatestResourcesRequest
    ) -> v1.GetLatestResourcesResponse: ...

    async def list_resources(
        self, context: CallContext, request: v1.ListResourcesRequest
    ) -> v1.ListResourcesResponse: ...

    def watch_latest_resources(
        self, context: CallContext, request: v1.WatchLatestResourcesRequest
    ) -> AsyncGenerator[v1.WatchLatestResourcesResponse, None]: ...

    async def update_worker(self, context: CallContext, request: v1.UpdateWorkerRequest) -> v1.UpdateWorkerResponse: ...

    async def get_worker(self, context: CallContext, request: v1.GetWorkerRequest) -> v1.GetWorkerResponse: ...

    async def list_workers(self, context: CallContext, request: v1.ListWorkersRequest) -> v1.ListWorkersResponse: ...

    async def get_server_info(
        self, context: CallContext, request: v1.GetServerInfoRequest
    ) -> v1.GetServerInfoResponse: ...

    async def get_statistics(
        self, context: CallContext, request: v1.GetStatisticsRequest
    ) -> v1.GetStatisticsResponse: ...

    async def list_experiments(
        self, context: CallContext, request: v1.ListExperimentsRequest
    ) -> v1.ListExperimentsResponse: ...

    async def delete_experiment(
        self, context: CallContext, request: v1.DeleteExperimentRequest
    ) -> v1.DeleteExperimentResponse: ...

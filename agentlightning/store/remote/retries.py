"""Which calls may be sent again after a failure, and for how long."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from agentlightning.store.api import LATEST
from agentlightning.store.errors import DeadlineExceeded, ResourceExhausted, StoreError, Unavailable
from agentlightning.store.statuses import QUEUED
from lightning_store import v1


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often a call is sent again. Each kind of failure has a budget of its own.

    A budget counts from the first failure of its kind in a call.
    """

    connect_seconds: float = 5.0
    """For a server that has never answered this client: a wrong address should be told soon."""
    reconnect_seconds: float = 60.0
    """For a server that has answered before: it may be restarting."""
    overload_seconds: float = 30.0
    """For a server that is overloaded and says when to try again."""
    late_answers: int = 2
    """How often a call is sent again whose answer did not come in time."""
    delays: Sequence[float] | None = None
    """Fixed seconds between tries, as many tries as there are; None doubles from `first_delay` up to `longest_delay`,
    with jitter, for as long as the budget lasts."""
    first_delay: float = 0.1
    longest_delay: float = 3.0

    def patience(self, *, was_connected: bool) -> float:
        """Return for how many seconds a server that cannot be reached is tried, given whether it ever answered."""
        if self.delays is not None:
            return sum(self.delays)
        return self.reconnect_seconds if was_connected else self.connect_seconds


class Budgets:
    """The budgets of one call.

    Args:
        policy: How long and how often.
        was_connected: True when the server has answered this client before.
    """

    def __init__(self, policy: RetryPolicy, *, was_connected: bool) -> None:
        self._policy = policy
        self._was_connected = was_connected
        self._first_failure: dict[type[StoreError], float] = {}
        self._tries = 0
        self._late = 0

    def delay_after(self, error: StoreError) -> float | None:
        """Return the seconds to wait before the next try; None when the call has failed for good."""
        policy = self._policy
        if isinstance(error, DeadlineExceeded):
            self._late += 1
            return 0.0 if self._late <= policy.late_answers else None
        if isinstance(error, Unavailable):
            budget = policy.patience(was_connected=self._was_connected)
        elif isinstance(error, ResourceExhausted) and error.retry_after is not None:
            budget = policy.overload_seconds
        else:
            return None
        self._tries += 1
        if policy.delays is not None:
            return policy.delays[self._tries - 1] if self._tries <= len(policy.delays) else None
        now = time.monotonic()
        left = self._first_failure.setdefault(type(error), now) + budget - now
        if left <= 0:
            return None
        delay = min(policy.first_delay * 2.0 ** (self._tries - 1), policy.longest_delay)
        delay = max(delay * random.uniform(0.8, 1.2), error.retry_after or 0.0)
        return min(delay, left)


def is_repeatable(request: Message) -> bool:
    """Tell whether a request that may have been carried out can be sent again.

    It can where that neither does its work twice, nor does it to what was not meant, nor takes back what others have
    published in between.
    """
    if isinstance(request, v1.EnqueueRolloutsRequest):
        return all(new.rollout_id for new in request.rollouts)
    if isinstance(request, v1.StartRolloutRequest):
        return bool(request.rollout.rollout_id)
    if isinstance(request, v1.DequeueRolloutsRequest):
        return bool(request.claim_id)
    if isinstance(request, v1.UpdateRolloutRequest):
        return request.status not in QUEUED
    if isinstance(request, v1.DeleteRolloutsRequest):
        # Others may match by then; a deleted id cannot.
        return request.HasField("rollout_id_in") and not request.HasField("status_in")
    if isinstance(request, v1.StartAttemptRequest):
        return bool(request.attempt_id)
    if isinstance(request, v1.UpdateAttemptRequest):
        # The latest may be another attempt by then, to which a sign of life does no harm.
        return request.attempt_id != LATEST or not any(
            request.HasField(field) for field in ("status", "worker_id", "metadata", "failure")
        )
    if isinstance(request, v1.AddSpansRequest):
        return all(
            any(span.trace_id) and any(span.span_id)
            for group in request.resource_spans
            for scoped in group.scope_spans
            for span in scoped.spans
        )
    if isinstance(request, v1.AddResourcesRequest):
        return bool(request.resources_id)
    if isinstance(request, v1.UpdateResourcesRequest):
        return request.HasField("expected_version")
    # A new experiment may have taken the name of the deleted one.
    return not isinstance(request, v1.DeleteExperimentRequest)

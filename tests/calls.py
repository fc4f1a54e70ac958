"""The calls of the contract in few words: what a test does not care about has a plain default."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from google.protobuf.duration_pb2 import Duration

from agentlightning.store.api import DEFAULT_EXPERIMENT, CallContext, StoreApi
from agentlightning.store.errors import StoreError
from lightning_store import v1

QUEUING = v1.ROLLOUT_STATUS_QUEUING
PREPARING = v1.ROLLOUT_STATUS_PREPARING
RUNNING = v1.ROLLOUT_STATUS_RUNNING
FAILED = v1.ROLLOUT_STATUS_FAILED
SUCCEEDED = v1.ROLLOUT_STATUS_SUCCEEDED
CANCELLED = v1.ROLLOUT_STATUS_CANCELLED
REQUEUING = v1.ROLLOUT_STATUS_REQUEUING

AT_PREPARING = v1.ATTEMPT_STATUS_PREPARING
AT_RUNNING = v1.ATTEMPT_STATUS_RUNNING
AT_FAILED = v1.ATTEMPT_STATUS_FAILED
AT_SUCCEEDED = v1.ATTEMPT_STATUS_SUCCEEDED
AT_UNRESPONSIVE = v1.ATTEMPT_STATUS_UNRESPONSIVE
AT_TIMEOUT = v1.ATTEMPT_STATUS_TIMEOUT

M = TypeVar("M")


def context(experiment: str = DEFAULT_EXPERIMENT) -> CallContext:
    """A call on an experiment."""
    return CallContext(experiment=experiment)


HERE = context()


@contextmanager
def refused(error: type[StoreError], reason: str) -> Iterator[pytest.ExceptionInfo[StoreError]]:
    """Expect a call to fail with an error of the contract."""
    with pytest.raises(error) as caught:
        yield caught
    assert caught.value.reason == reason


def payload(value: Any) -> v1.Payload:
    """A value as JSON."""
    return v1.Payload(content_type="application/json", data=json.dumps(value).encode())


def seconds(length: float) -> Duration:
    """A length of time."""
    message = Duration()
    message.FromNanoseconds(round(length * 1e9))
    return message


def config(
    *,
    timeout: float | None = None,
    unresponsive: float | None = None,
    max_attempts: int = 0,
    retry_on: Iterable[v1.AttemptStatus.ValueType] = (),
    budgets: Mapping[v1.AttemptFailureKind.ValueType, int] | None = None,
) -> v1.RolloutConfig:
    """Limits in seconds, and retries."""
    return v1.RolloutConfig(
        timeout=None if timeout is None else seconds(timeout),
        unresponsive_timeout=None if unresponsive is None else seconds(unresponsive),
        max_attempts=max_attempts,
        retry_on=retry_on,
        retry_budgets=[v1.RetryBudget(kind=kind, max_retries=count) for kind, count in (budgets or {}).items()],
    )


def failure(kind: v1.AttemptFailureKind.ValueType, message: str = "", **fields: Any) -> v1.AttemptFailure:
    """Why an attempt ended badly."""
    return v1.AttemptFailure(kind=kind, message=message, **fields)


async def enqueue(api: StoreApi, *rollout_ids: str, experiment: str = "default", **fields: Any) -> list[v1.Rollout]:
    """Enqueue rollouts that are alike but for their ids."""
    request = v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id=name, **fields) for name in rollout_ids])
    return list((await api.enqueue_rollouts(context(experiment), request)).rollouts)


async def start(
    api: StoreApi,
    rollout_id: str,
    *,
    attempt_id: str = "",
    worker_id: str = "",
    lease: float | None = None,
    **fields: Any,
) -> v1.Attempt:
    """Create a rollout that is claimed at once, and return its attempt."""
    request = v1.StartRolloutRequest(
        rollout=v1.NewRollout(rollout_id=rollout_id, **fields),
        attempt_id=attempt_id,
        worker_id=worker_id,
        lease=None if lease is None else seconds(lease),
    )
    return (await api.start_rollout(HERE, request)).attempt


async def dequeue(
    api: StoreApi,
    limit: int = 1,
    *,
    wait: float | None = None,
    lease: float | None = None,
    experiment: str = "default",
    **fields: Any,
) -> v1.DequeueRolloutsResponse:
    """Claim rollouts."""
    request = v1.DequeueRolloutsRequest(
        limit=limit,
        wait=None if wait is None else seconds(wait),
        lease=None if lease is None else seconds(lease),
        **fields,
    )
    return await api.dequeue_rollouts(context(experiment), request)


async def claim(api: StoreApi, **fields: Any) -> v1.Attempt:
    """Claim one rollout, which must be there, and return its attempt."""
    (claimed,) = (await dequeue(api, **fields)).claims
    return claimed.attempt


def claimed_ids(response: v1.DequeueRolloutsResponse) -> list[str]:
    """The rollouts of a dequeue."""
    return [entry.rollout.rollout_id for entry in response.claims]


async def queue(api: StoreApi, experiment: str = "default") -> list[str]:
    """The rollouts that are queued, in their order: claims them all, and hands them back to their places."""
    response = await dequeue(api, 1000, experiment=experiment)
    keys = [key_of(entry.attempt) for entry in response.claims]
    await api.release_attempts(context(experiment), v1.ReleaseAttemptsRequest(attempts=keys))
    return claimed_ids(response)


async def get(api: StoreApi, rollout_id: str, experiment: str = "default") -> v1.Rollout:
    """Return a rollout."""
    return (await api.get_rollout(context(experiment), v1.GetRolloutRequest(rollout_id=rollout_id))).rollout


async def status_of(api: StoreApi, rollout_id: str) -> v1.RolloutStatus.ValueType:
    """Return the status of a rollout."""
    return (await get(api, rollout_id)).status


async def update(api: StoreApi, rollout_id: str, **fields: Any) -> v1.Rollout:
    """Change a rollout by the operator's word."""
    return (await api.update_rollout(HERE, v1.UpdateRolloutRequest(rollout_id=rollout_id, **fields))).rollout


async def list_rollouts(
    api: StoreApi, page: v1.Page | None = None, *, experiment: str = "default", **conditions: Any
) -> v1.ListRolloutsResponse:
    """List rollouts that match the conditions of a filter."""
    request = v1.ListRolloutsRequest(
        filter=v1.RolloutFilter(**conditions) if conditions else None, page=page or v1.Page()
    )
    return await api.list_rollouts(context(experiment), request)


async def ids(api: StoreApi, page: v1.Page | None = None, **conditions: Any) -> list[str]:
    """The ids of the rollouts that match the conditions of a filter."""
    return [rollout.rollout_id for rollout in (await list_rollouts(api, page, **conditions)).rollouts]


async def delete(api: StoreApi, *rollout_ids: str, experiment: str = "default") -> list[str]:
    """Delete rollouts, and return which were deleted."""
    request = v1.DeleteRolloutsRequest(rollout_id_in=v1.StringSet(values=rollout_ids))
    return list((await api.delete_rollouts(context(experiment), request)).deleted_rollout_ids)


def key_of(attempt: v1.Attempt) -> v1.AttemptKey:
    """The key of an attempt."""
    return v1.AttemptKey(rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id)


async def release(api: StoreApi, *attempts: v1.Attempt) -> list[v1.AttemptKey]:
    """Hand attempts back, and return which were taken back."""
    request = v1.ReleaseAttemptsRequest(attempts=[key_of(attempt) for attempt in attempts])
    return list((await api.release_attempts(HERE, request)).released)


async def start_attempt(
    api: StoreApi, rollout_id: str, attempt_id: str = "", *, lease: float | None = None, **fields: Any
) -> v1.Attempt:
    """Create a further attempt, and return it."""
    request = v1.StartAttemptRequest(
        rollout_id=rollout_id, attempt_id=attempt_id, lease=None if lease is None else seconds(lease), **fields
    )
    return (await api.start_attempt(HERE, request)).attempt


async def report(
    api: StoreApi, attempt: v1.Attempt, status: v1.AttemptStatus.ValueType | None = None, **fields: Any
) -> v1.Attempt:
    """Report on an attempt, and return it."""
    request = v1.UpdateAttemptRequest(
        rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, status=status, **fields
    )
    return (await api.update_attempt(HERE, request)).attempt


async def fail(
    api: StoreApi, attempt: v1.Attempt, kind: v1.AttemptFailureKind.ValueType | None = None, **fields: Any
) -> v1.Attempt:
    """Report that an attempt failed."""
    return await report(api, attempt, AT_FAILED, failure=None if kind is None else failure(kind, **fields))


async def finish(api: StoreApi, *rollout_ids: str) -> None:
    """Run rollouts that are queued or claimed, and succeed."""
    for rollout_id in rollout_ids:
        attempt = await start_attempt(api, rollout_id)
        await report(api, attempt, AT_SUCCEEDED)


async def attempts(api: StoreApi, rollout_id: str, page: v1.Page | None = None) -> list[v1.Attempt]:
    """The attempts of a rollout."""
    request = v1.ListAttemptsRequest(rollout_id=rollout_id, page=page or v1.Page())
    return list((await api.list_attempts(HERE, request)).attempts)


async def attempt_of(api: StoreApi, attempt: v1.Attempt) -> v1.Attempt:
    """An attempt as it is now."""
    (found,) = [now for now in await attempts(api, attempt.rollout_id) if now.attempt_id == attempt.attempt_id]
    return found


def span(attempt: v1.Attempt, name: str = "work", *, number: int = 0, **fields: Any) -> v1.Span:
    """A span of an attempt, with an identity of its own unless one is given."""
    fields = {"trace_id": secrets.token_bytes(16), "span_id": secrets.token_bytes(8), **fields}
    return v1.Span(
        rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, name=name, sequence_id=number, **fields
    )


def spans_request(*spans: v1.Span) -> v1.AddSpansRequest:
    """Spans of one resource and scope."""
    return v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=spans)])])


async def add_spans(api: StoreApi, *spans: v1.Span) -> v1.AddSpansResponse:
    """Store spans."""
    return await api.add_spans(HERE, spans_request(*spans))


async def list_spans(
    api: StoreApi, rollout_id: str, attempt_id: str = "", page: v1.Page | None = None, **conditions: Any
) -> v1.ListSpansResponse:
    """List spans that match the conditions of a filter."""
    request = v1.ListSpansRequest(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        filter=v1.SpanFilter(**conditions) if conditions else None,
        page=page or v1.Page(),
    )
    return await api.list_spans(HERE, request)


def flat(groups: Iterable[v1.ResourceSpans]) -> list[v1.Span]:
    """The spans of groups, in their order."""
    return [one for group in groups for scoped in group.scope_spans for one in scoped.spans]


async def spans(api: StoreApi, rollout_id: str, attempt_id: str = "", **conditions: Any) -> list[v1.Span]:
    """The spans of a rollout."""
    return flat((await list_spans(api, rollout_id, attempt_id, **conditions)).resource_spans)


async def span_names(api: StoreApi, rollout_id: str, attempt_id: str = "", **conditions: Any) -> list[str]:
    """The names of the spans of a rollout."""
    return [one.name for one in await spans(api, rollout_id, attempt_id, **conditions)]


def prompt(text: str) -> v1.Resource:
    """A resource."""
    return v1.Resource(prompt_template=v1.PromptTemplate(template=text, engine="f-string"))


def named(**resources: v1.Resource) -> list[v1.NamedResource]:
    """Resources under their names."""
    return [v1.NamedResource(name=name, resource=resource) for name, resource in resources.items()]


async def publish(
    api: StoreApi, resources_id: str = "", text: str = "Hello", experiment: str = "default"
) -> v1.Resources:
    """Publish a set of one prompt."""
    request = v1.AddResourcesRequest(resources_id=resources_id, resources=named(main=prompt(text)))
    return (await api.add_resources(context(experiment), request)).resources


async def beat(api: StoreApi, worker_id: str, *held: v1.Attempt, **fields: Any) -> v1.UpdateWorkerResponse:
    """Send the heartbeat of a worker."""
    request = v1.UpdateWorkerRequest(worker_id=worker_id, held_attempts=[key_of(attempt) for attempt in held], **fields)
    return await api.update_worker(HERE, request)


async def worker(api: StoreApi, worker_id: str) -> v1.Worker:
    """Return a worker."""
    return (await api.get_worker(HERE, v1.GetWorkerRequest(worker_id=worker_id))).worker


async def statistics(api: StoreApi, experiment: str = "default") -> v1.GetStatisticsResponse:
    """Return the totals of an experiment."""
    return await api.get_statistics(context(experiment), v1.GetStatisticsRequest())


def waiting_for(
    api: StoreApi,
    *rollout_ids: str,
    timeout: float | None = None,
    spans_view: v1.SpansView.ValueType = v1.SPANS_VIEW_UNSPECIFIED,
    experiment: str = "default",
) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]:
    """Wait for rollouts."""
    request = v1.WaitForRolloutsRequest(
        rollout_ids=rollout_ids, timeout=None if timeout is None else seconds(timeout), spans_view=spans_view
    )
    return api.wait_for_rollouts(context(experiment), request)


def watching(
    api: StoreApi, cursor: str = "", *, experiment: str = "default", **fields: Any
) -> AsyncGenerator[v1.WatchRolloutsResponse, None]:
    """Watch rollouts."""
    return api.watch_rollouts(context(experiment), v1.WatchRolloutsRequest(cursor=cursor, **fields))


async def following(stream: AsyncGenerator[M, None], within: float = 25.0) -> M:
    """The next message of a stream, which must come in time."""
    return await asyncio.wait_for(anext(stream), within)


async def everything(stream: AsyncGenerator[M, None]) -> list[M]:
    """All messages of a stream, up to its end."""
    return [message async for message in stream]

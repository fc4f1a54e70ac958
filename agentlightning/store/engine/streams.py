"""The streaming calls: waiting for rollouts, watching rollouts and resources."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

from agentlightning.store.api import MOST_IDS
from agentlightning.store.engine import cursors, messages, resources, spans
from agentlightning.store.engine.paging import MOST_BYTES
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.validation import check_count, check_understood
from agentlightning.store.engine.waiting import Waiters
from agentlightning.store.statuses import FINISHED
from agentlightning.store.storage.queries import Position
from agentlightning.store.storage.rows import TombstoneRow
from agentlightning.store.storage.tx import RolloutView
from lightning_store import v1

_LIFETIME = 600.0
_MOST_AT_ONCE = 200

T = TypeVar("T")


class Reader(Protocol):
    """Runs a rule that only reads, on the experiment of the call."""

    def __call__(self, rule: Callable[[Scope], T], /) -> Awaitable[T]: ...


class _Timer:
    """Time that is left; for ever when there is no limit."""

    def __init__(self, length: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = None if length is None else self._loop.time() + length

    def left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - self._loop.time())

    def is_up(self) -> bool:
        return self.left() == 0.0


async def wait_for_rollouts(
    read: Reader, waiters: Waiters, request: v1.WaitForRolloutsRequest
) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]:
    """Stream rollouts as they finish."""
    check_count(request.rollout_ids, MOST_IDS, "rollout_ids")
    timeout = messages.duration_ns(request, "timeout")
    timer = _Timer(None if timeout is None else timeout / messages.SECOND)
    experiment = await read(lambda scope: scope.experiment.key)
    pending = dict.fromkeys(request.rollout_ids)
    subscription = waiters.subscribe(("rollout", experiment, rollout_id) for rollout_id in pending)
    try:
        look_at = list(pending)
        while True:
            while look_at:
                batch, look_at = look_at[:_MOST_AT_ONCE], look_at[_MOST_AT_ONCE:]
                finished, missing, later = await read(partial(_outcomes, rollout_ids=batch))
                look_at = later + look_at
                for rollout_id in missing:
                    del pending[rollout_id]
                    yield v1.WaitForRolloutsResponse(not_found_rollout_id=rollout_id)
                for rollout in finished:
                    del pending[rollout.rollout_id]
                    yield v1.WaitForRolloutsResponse(finished=rollout)
                    async for chunk in _spans_of(read, rollout.rollout_id, request.spans_view):
                        yield v1.WaitForRolloutsResponse(span_chunk=chunk)
                settled = [*missing, *(rollout.rollout_id for rollout in finished)]
                subscription.drop(("rollout", experiment, rollout_id) for rollout_id in settled)
            if not pending or timer.is_up():
                yield v1.WaitForRolloutsResponse(done=v1.WaitDone(pending_rollout_ids=pending))
                return
            woken = await subscription.wait(timer.left())
            look_at = [name for _, _, name in woken if name in pending]
            if timer.is_up():
                look_at = list(pending)
    finally:
        subscription.close()


def _outcomes(scope: Scope, rollout_ids: list[str]) -> tuple[list[v1.Rollout], list[str], list[str]]:
    """Return those of the rollouts that are finished, the ids of those that do not exist, and those still to look at.

    It stops after as many bytes as an answer takes.
    """
    states = scope.tx.finished(scope.experiment.key, rollout_ids, FINISHED)
    missing = [rollout_id for rollout_id in rollout_ids if rollout_id not in states]
    done = [rollout_id for rollout_id in rollout_ids if states.get(rollout_id)]
    finished: list[v1.Rollout] = []
    size = 0
    while done and size <= MOST_BYTES:
        view = scope.tx.rollout_view(scope.experiment.key, done.pop(0))
        if view is not None:
            finished.append(messages.rollout(view, scope.now))
            size += len(view.body)
    return finished, missing, done


async def _spans_of(read: Reader, rollout_id: str, view: v1.SpansView.ValueType) -> AsyncGenerator[v1.SpanChunk, None]:
    if view not in (v1.SPANS_VIEW_LATEST_ATTEMPT, v1.SPANS_VIEW_ALL_ATTEMPTS):
        return
    after: Position | None = None
    while True:
        chunk, after = await read(lambda scope: spans.chunk(scope, rollout_id, view, after))  # noqa: B023
        yield chunk
        if chunk.last:
            return


async def watch_rollouts(
    read: Reader, waiters: Waiters, store_id: str, request: v1.WatchRolloutsRequest
) -> AsyncGenerator[v1.WatchRolloutsResponse, None]:
    """Stream the changes after a cursor."""
    check_understood(request)
    timer = _Timer(_LIFETIME)
    experiment, after = await read(
        lambda scope: (
            scope.experiment.key,
            cursors.decode(request.cursor, store_id, scope.experiment, scope.tx.last_change(scope.experiment)),
        )
    )
    subscription = waiters.subscribe([("changes", experiment, "")])
    try:
        while not timer.is_up():
            response, after = await read(
                lambda scope: _changes(scope, store_id, after, request)  # noqa: B023
            )
            yield response
            if response.caught_up:
                await subscription.wait(timer.left())
    finally:
        subscription.close()


def _changes(
    scope: Scope, store_id: str, after: int, request: v1.WatchRolloutsRequest
) -> tuple[v1.WatchRolloutsResponse, int]:
    """Return the changes after a number, as many as a message takes, and the number of the last one."""
    sources: list[Iterable[RolloutView | TombstoneRow]] = [
        scope.tx.changed_rollouts(scope.experiment.key, after, _MOST_AT_ONCE + 1),
        scope.tx.tombstones(scope.experiment.key, after, _MOST_AT_ONCE + 1),
    ]
    wanted = set(request.status_in.values) if request.HasField("status_in") else None
    response = v1.WatchRolloutsResponse()
    size = 0
    for position, entry in enumerate(heapq.merge(*sources, key=_number)):
        if position == _MOST_AT_ONCE or size > MOST_BYTES:
            break
        after = _number(entry)
        if isinstance(entry, TombstoneRow):
            response.changes.add(deleted_rollout_id=entry.rollout_id)
        elif wanted is None or entry.row.status in wanted:
            response.changes.add(rollout=messages.rollout(entry, scope.now))
            size += len(entry.body)
    else:
        response.caught_up = True
    response.cursor = cursors.encode(store_id, scope.experiment, after)
    return response, after


def _number(entry: RolloutView | TombstoneRow) -> int:
    return entry.change_seq if isinstance(entry, TombstoneRow) else entry.row.change_seq


async def watch_latest_resources(
    read: Reader, waiters: Waiters, request: v1.WatchLatestResourcesRequest
) -> AsyncGenerator[v1.WatchLatestResourcesResponse, None]:
    """Stream the latest resources, then each set that takes their place."""
    timer = _Timer(_LIFETIME)
    known = (request.known.resources_id, request.known.version)
    experiment = await read(lambda scope: scope.experiment.key)
    subscription = waiters.subscribe([("resources", experiment, "")])
    try:
        while not timer.is_up():
            latest = await read(_latest)
            if latest is not None and (latest.resources_id, latest.version) != known:
                known = (latest.resources_id, latest.version)
                yield v1.WatchLatestResourcesResponse(resources=latest)
            else:
                await subscription.wait(timer.left())
    finally:
        subscription.close()


def _latest(scope: Scope) -> v1.Resources | None:
    row = resources.find(scope, None)
    return None if row is None else messages.resources(row)

"""The streaming calls: waiting for rollouts, watching rollouts and resources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from agentlightning.store.engine import cursors, messages, resources, spans
from agentlightning.store.engine.paging import MOST_BYTES
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.validation import check_count
from agentlightning.store.engine.waiting import Waiters
from agentlightning.store.statuses import FINISHED
from agentlightning.store.storage.rows import TombstoneRow
from agentlightning.store.storage.tx import Position, RolloutView
from lightning_store import v1

_LIFETIME = 600.0
_MOST_IDS = 10_000
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


def _batches(ids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(ids)
    while batch := list(islice(iterator, _MOST_AT_ONCE)):
        yield batch


async def wait_for_rollouts(
    read: Reader, waiters: Waiters, request: v1.WaitForRolloutsRequest
) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]:
    """Stream rollouts as they finish."""
    check_count(request.rollout_ids, _MOST_IDS, "rollout_ids")
    timeout = messages.duration_ns(request, "timeout")
    timer = _Timer(None if timeout is None else timeout / messages.SECOND)
    experiment = await read(lambda scope: scope.experiment.key)
    pending = dict.fromkeys(request.rollout_ids)
    subscription = waiters.subscribe(("rollout", experiment, rollout_id) for rollout_id in pending)
    try:
        look_at = list(pending)
        while True:
            for batch in _batches(look_at):
                finished, missing = await read(partial(_outcomes, rollout_ids=batch))
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


def _outcomes(scope: Scope, rollout_ids: list[str]) -> tuple[list[v1.Rollout], list[str]]:
    """Return those of the rollouts that are finished, and the ids of those that do not exist."""
    states = scope.tx.finished(scope.experiment.key, rollout_ids, FINISHED)
    done = [rollout_id for rollout_id in rollout_ids if states.get(rollout_id)]
    views = {view.row.rollout_id: view for view in scope.tx.rollout_views(scope.experiment.key, done)}
    finished = [messages.rollout(views[rollout_id], scope.now) for rollout_id in done]
    return finished, [rollout_id for rollout_id in rollout_ids if rollout_id not in states]


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
    changed = scope.tx.changed_rollouts(scope.experiment.key, after, _MOST_AT_ONCE)
    deleted = scope.tx.tombstones(scope.experiment.key, after, _MOST_AT_ONCE)
    wanted = set(request.status_in.values) if request.HasField("status_in") else None
    response = v1.WatchRolloutsResponse()
    changes: list[RolloutView | TombstoneRow] = [*changed, *deleted]
    changes.sort(key=_number)
    taken = size = 0
    for entry in changes[:_MOST_AT_ONCE]:
        if size > MOST_BYTES:
            break
        taken += 1
        after = _number(entry)
        if isinstance(entry, TombstoneRow):
            response.changes.add(deleted_rollout_id=entry.rollout_id)
        elif wanted is None or entry.row.status in wanted:
            change = response.changes.add(rollout=messages.rollout(entry, scope.now))
            size += change.ByteSize()
    response.cursor = cursors.encode(store_id, scope.experiment, after)
    response.caught_up = taken == len(changed) + len(deleted) and taken < _MOST_AT_ONCE
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

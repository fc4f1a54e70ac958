"""The rules of `SpanService`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agentlightning.store.api import LATEST, MOST_SPANS
from agentlightning.store.engine import attempts as attempt_rules
from agentlightning.store.engine import messages
from agentlightning.store.engine.encoding import resource_spans
from agentlightning.store.engine.paging import MOST_BYTES, Sizes, start_query, take
from agentlightning.store.engine.rollouts import existing
from agentlightning.store.engine.scope import Scope, SpanBound
from agentlightning.store.engine.transitions import sign_of_life
from agentlightning.store.engine.validation import check_payload
from agentlightning.store.errors import InvalidArgument, ResourceExhausted
from agentlightning.store.storage.queries import Condition, Position, Query
from agentlightning.store.storage.rows import END_OF_TIME, AttemptRow, RolloutRow, SpanRow
from agentlightning.store.storage.schema import SPANS
from agentlightning.store.storage.tx import SpanIdentity, Tx
from lightning_store import v1

logger = logging.getLogger(__name__)

MOST_SEQUENCE_ID = 1 << 62
"""The highest number that a client may give a span: it leaves room for those that the server gives after it."""

_SIZES = Sizes(default=1000, most=MOST_SPANS)
_MOST_RESERVED = 100_000
_EVICTED_AT_ONCE = 100
_RETRY_WHEN_FULL = 5.0


class _Counters:
    """A rollout, and its counters as a request leaves them."""

    __slots__ = ("rollout", "span_bytes", "span_seq", "spans")

    def __init__(self, rollout: RolloutRow) -> None:
        self.rollout = rollout
        self.span_seq = rollout.span_seq
        self.spans = rollout.spans
        self.span_bytes = rollout.span_bytes


class _Target(NamedTuple):
    """The attempt that spans of a request go to."""

    counters: _Counters
    attempt: AttemptRow


class _Targets:
    """The rollouts and attempts that a request names, each looked up once."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._counters: dict[str, _Counters] = {}
        self._targets: dict[tuple[str, str], _Target] = {}

    def get(self, rollout_id: str, attempt_id: str) -> _Target:
        target = self._targets.get((rollout_id, attempt_id))
        if target is None:
            counters = self._counters.get(rollout_id)
            if counters is None:
                counters = self._counters[rollout_id] = _Counters(existing(self._scope, rollout_id))
            target = _Target(counters, attempt_rules.named(self._scope, counters.rollout, attempt_id))
            self._targets[rollout_id, attempt_id] = target
        return target

    def __iter__(self) -> Iterator[_Target]:
        return iter(self._targets.values())

    def counters(self) -> Iterator[_Counters]:
        return iter(self._counters.values())


class _Arrival(NamedTuple):
    """A span of a request."""

    span: v1.Span
    target: _Target
    source: int
    identity: SpanIdentity | None
    """None for a span without trace id or span id."""
    body: bytes
    """What to store."""


def add(scope: Scope, request: v1.AddSpansRequest, bodies: Sequence[bytes] | None = None) -> v1.AddSpansResponse:
    """Store spans, all or none.

    Args:
        scope: Where.
        request: The spans.
        bodies: Each of them encoded, in their order; None has it done.
    """
    targets = _Targets(scope)
    arrivals = list(_arrivals(scope, request, targets, bodies or _encoded(request)))
    known = scope.tx.stored_spans(arrival.identity for arrival in arrivals if arrival.identity is not None)
    response = v1.AddSpansResponse()
    rows: list[SpanRow] = []
    for position, arrival in enumerate(arrivals):
        number = None if arrival.identity is None else known.get(arrival.identity)
        if number is not None:
            response.duplicates.append(position)
        else:
            row = _row(arrival)
            rows.append(row)
            number = row.sequence_id
            if arrival.identity is not None:
                known[arrival.identity] = number
        response.sequence_ids.append(number)
    scope.tx.add_spans(rows)
    scope.tx.drop_unused_sources({arrival.source for arrival in arrivals} - {row.source for row in rows})
    for new in targets.counters():
        scope.tx.update_rollout(new.rollout, span_seq=new.span_seq, spans=new.spans, span_bytes=new.span_bytes)
    for target in targets:
        sign_of_life(scope, target.counters.rollout, target.attempt, works=True)
    if rows and scope.span_bound is not None:
        _keep_bound(scope, scope.span_bound)
    return response


def _encoded(request: v1.AddSpansRequest) -> Iterator[bytes]:
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield span.SerializeToString()


def _arrivals(
    scope: Scope, request: v1.AddSpansRequest, targets: _Targets, bodies: Iterable[bytes]
) -> Iterator[_Arrival]:
    body_of_next = iter(bodies)
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            if not scoped.spans:
                continue
            source = _source(scope, group, scoped)
            for span in scoped.spans:
                trace_id, span_id = span.trace_id, span.span_id
                _check(span, trace_id, span_id)
                target = targets.get(span.rollout_id, span.attempt_id)
                has_identity = any(trace_id) and any(span_id)
                identity = (target.attempt.key, span_id, trace_id) if has_identity else None
                yield _Arrival(span, target, source, identity, next(body_of_next))


def _row(arrival: _Arrival) -> SpanRow:
    """Return the row of a new span, and count it."""
    span, target, source, identity, body = arrival
    counters = target.counters
    number = span.sequence_id or counters.span_seq + 1
    counters.span_seq = max(counters.span_seq, number)
    counters.spans += 1
    counters.span_bytes += len(body)
    return SpanRow(
        key=0,
        rollout=counters.rollout.key,
        attempt=target.attempt.key,
        trace_id=None if identity is None else identity[2],
        span_id=None if identity is None else identity[1],
        parent_id=span.parent_span_id or None,
        sequence_id=number,
        start_time=min(span.start_time_unix_nano, END_OF_TIME),
        end_time=min(span.end_time_unix_nano, END_OF_TIME),
        name=span.name,
        source=source,
        body=body,
    )


def _check(span: v1.Span, trace_id: bytes, span_id: bytes) -> None:
    check_payload(span, "extra")
    parent_id = span.parent_span_id
    for field, value, size in (("trace_id", trace_id, 16), ("span_id", span_id, 8), ("parent_span_id", parent_id, 8)):
        if value and len(value) != size:
            raise InvalidArgument(
                f"Span {span.name!r} of rollout {span.rollout_id}: {field} has {len(value)} bytes, not {size}.",
                reason="INVALID_SPAN",
                metadata={"field": field, "rollout_id": span.rollout_id},
            )
    if not 0 <= span.sequence_id <= MOST_SEQUENCE_ID:
        raise InvalidArgument(
            f"Span {span.name!r} of rollout {span.rollout_id}: sequence_id must be 0 to 2**62, not {span.sequence_id}.",
            reason="INVALID_SPAN",
            metadata={"field": "sequence_id", "rollout_id": span.rollout_id},
        )


def _source(scope: Scope, group: v1.ResourceSpans, scoped: v1.ScopeSpans) -> int:
    """Return the key of the resource and scope of some spans."""
    source = v1.ResourceSpans(
        resource=group.resource if group.HasField("resource") else None,
        schema_url=group.schema_url,
        scope_spans=[
            v1.ScopeSpans(scope=scoped.scope if scoped.HasField("scope") else None, schema_url=scoped.schema_url)
        ],
    )
    return scope.tx.source(scope.experiment.key, messages.fingerprint(source), source.SerializeToString())


def _keep_bound(scope: Scope, bound: SpanBound) -> None:
    """Drop spans of finished rollouts when there are too many, the oldest first; never those of unfinished ones."""
    held = scope.tx.span_bytes()
    if held <= bound.evict_above:
        return
    evicted, held = _evict(scope.tx, held, bound.evict_down_to)
    if held > bound.evict_above:
        raise ResourceExhausted(
            f"The memory store is full: {held} bytes of spans belong to unfinished rollouts, {bound.evict_above} are "
            "allowed. Use a sqlite store, raise the bound, or finish or delete rollouts.",
            reason="SPAN_MEMORY_FULL",
            retry_after=_RETRY_WHEN_FULL,
        )
    _tell_evicted(evicted)


def make_room(tx: Tx) -> bool:
    """Drop half of the spans when the whole store is full, those of finished rollouts; tell whether there were any."""
    held = tx.span_bytes()
    evicted, _ = _evict(tx, held, held // 2)
    _tell_evicted(evicted)
    return bool(evicted)


def _evict(tx: Tx, held: int, down_to: int) -> tuple[list[str], int]:
    """Drop spans of finished rollouts, the oldest first; return whose, and the bytes of spans that are left."""
    evicted: list[str] = []
    while held > down_to and (oldest := tx.evictable_rollouts(_EVICTED_AT_ONCE)):
        for rollout in oldest:
            counts = tx.span_counts(rollout.key)
            for attempt in tx.attempts(rollout.key):
                if attempt.key in counts:
                    tx.update_attempt(attempt, evicted_spans=attempt.evicted_spans + counts[attempt.key])
            tx.delete_spans(rollout.key)
            held -= rollout.span_bytes
            tx.update_rollout(rollout, spans=0, span_bytes=0)
            evicted.append(rollout.rollout_id)
            if held <= down_to:
                break
    return evicted, held


def _tell_evicted(evicted: list[str]) -> None:
    if evicted:
        logger.warning(
            "The memory store is full: dropped the spans of %d finished rollouts, the oldest first: %s%s",
            len(evicted),
            ", ".join(evicted[:5]),
            ", ..." if len(evicted) > 5 else "",
        )


def list_spans(scope: Scope, request: v1.ListSpansRequest) -> bytes:
    """Return a page of the spans of a rollout: a `ListSpansResponse`, encoded."""
    rollout = scope.tx.rollout(scope.experiment.key, request.rollout_id)
    query = start_query(
        request,
        SPANS,
        "sequence_id",
        must=[Condition("rollout", "equals", 0 if rollout is None else rollout.key)],
        conditions=_conditions(request.filter),
        logic=request.filter.logic,
        sizes=_SIZES,
    )
    attempts = [] if rollout is None else _attempts(scope, rollout, request.attempt_id)
    if request.attempt_id:
        query.must.append(Condition("attempt", "equals", attempts[0].key if attempts else 0))
    found, page_info = take(request, query, scope.tx.span_list(query), lambda row: len(row.body))
    if request.page.with_total_size:
        page_info.total_size = (
            rollout.spans
            if rollout is not None and not query.conditions and not request.attempt_id
            else scope.tx.total(SPANS, query)
        )
    head = v1.ListSpansResponse(page_info=page_info, evicted_spans=sum(attempt.evicted_spans for attempt in attempts))
    spans = resource_spans(v1.ListSpansResponse.RESOURCE_SPANS_FIELD_NUMBER, found, scope.tx.source_body)
    return b"".join([head.SerializeToString(), *spans])


def _attempts(scope: Scope, rollout: RolloutRow, attempt_id: str) -> list[AttemptRow]:
    """Return the attempts that a request asks for: one, or all for the empty id."""
    if not attempt_id:
        return scope.tx.attempts(rollout.key)
    is_latest = attempt_id == LATEST
    found = attempt_rules.latest_of(scope, rollout) if is_latest else scope.tx.attempt(rollout.key, attempt_id)
    return [] if found is None else [found]


def _conditions(wanted: v1.SpanFilter) -> list[Condition]:
    conditions = []
    for field in ("trace_id", "span_id", "parent_id", "name"):
        if wanted.HasField(field):
            conditions.append(Condition(field, "equals", getattr(wanted, field)))
        if wanted.HasField(f"{field}_contains"):  # type: ignore[arg-type]
            conditions.append(Condition(field, "contains", getattr(wanted, f"{field}_contains")))
    return conditions


def chunk(
    scope: Scope, rollout_id: str, view: v1.SpansView.ValueType, after: Position | None
) -> tuple[v1.SpanChunk, Position | None]:
    """Return the spans of a rollout from a position on, as many as a chunk takes, and where the next one starts.

    Args:
        scope: Where.
        rollout_id: The rollout.
        view: Whose spans.
        after: Position of the last span of the chunk before; None for the first chunk.
    """
    rollout = scope.tx.rollout(scope.experiment.key, rollout_id)
    if rollout is None:  # deleted meanwhile
        return v1.SpanChunk(rollout_id=rollout_id, last=True), None
    must = [Condition("rollout", "equals", rollout.key)]
    if view == v1.SPANS_VIEW_LATEST_ATTEMPT:
        must.append(Condition("attempt", "equals", rollout.last_attempt or 0))
    query = Query(must=must, order="sequence_id", after=after, limit=_SIZES.most)
    taken: list[SpanRow] = []
    size = 0
    is_last = False
    for row, position in scope.tx.span_list(query):
        if taken and size + len(row.body) > MOST_BYTES:
            break
        taken.append(row)
        size += len(row.body)
        after = position
    else:
        is_last = len(taken) < _SIZES.most
    message = v1.SpanChunk(rollout_id=rollout_id, last=is_last)
    spans = resource_spans(v1.SpanChunk.RESOURCE_SPANS_FIELD_NUMBER, taken, scope.tx.source_body)
    message.MergeFromString(b"".join(spans))
    return message, after


def reserve(scope: Scope, request: v1.ReserveSpanSequenceIdsRequest) -> v1.ReserveSpanSequenceIdsResponse:
    """Take numbers out of the counters of rollouts."""
    targets = _Targets(scope)
    response = v1.ReserveSpanSequenceIdsResponse()
    for reservation in request.reservations:
        if not 0 <= reservation.count <= _MOST_RESERVED:
            raise InvalidArgument(
                f"count must be 1 to {_MOST_RESERVED}, not {reservation.count}.", reason="INVALID_COUNT"
            )
        counters = targets.get(reservation.attempt.rollout_id, reservation.attempt.attempt_id).counters
        response.first_sequence_ids.append(counters.span_seq + 1)
        counters.span_seq += reservation.count or 1
    for new in targets.counters():
        scope.tx.update_rollout(new.rollout, span_seq=new.span_seq)
    return response

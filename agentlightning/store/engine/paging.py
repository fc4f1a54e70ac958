"""Pages of lists: bounded in items and bytes, continued by tokens that belong to one request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from agentlightning.store.api import MOST_ITEMS
from agentlightning.store.engine.messages import fingerprint
from agentlightning.store.engine.validation import check_understood
from agentlightning.store.errors import InvalidArgument
from agentlightning.store.storage.queries import Condition, Position, Query
from agentlightning.store.storage.rows import END_OF_TIME
from agentlightning.store.storage.schema import Table
from lightning_store import v1

MOST_BYTES = 2 << 20
"""Bytes after which a page ends."""

R = TypeVar("R")
M = TypeVar("M", bound=Message)


class Sizes(NamedTuple):
    """How many items a page has."""

    default: int = 100
    most: int = MOST_ITEMS


def start_query(
    request: Message,
    table: Table[Any],
    default_order: str,
    *,
    must: Sequence[Condition] = (),
    conditions: Sequence[Condition] = (),
    logic: v1.FilterLogic.ValueType = v1.FILTER_LOGIC_UNSPECIFIED,
    sizes: Sizes = Sizes(),  # noqa: B008  immutable
) -> Query:
    """Return the query for the page that a List request asks for.

    It asks for one row more than the page has, which tells whether another page follows.
    """
    check_understood(request)
    page: v1.Page = request.page  # type: ignore[attr-defined]
    if page.page_size < 0 or page.skip < 0:
        raise InvalidArgument("page.page_size and page.skip must not be negative.", reason="INVALID_PAGE")
    order = page.order_by or default_order
    if order not in table.order:
        raise InvalidArgument(
            f"Cannot order by {order!r}; known are {', '.join(table.order)}.",
            reason="UNKNOWN_ORDER",
            metadata={"order_by": order},
        )
    after = _position(page.page_token, _digest(request), len(table.order[order]) + 1) if page.page_token else None
    return Query(
        must=list(must),
        conditions=list(conditions),
        match_any=logic == v1.FILTER_LOGIC_OR,
        order=order,
        descending=page.descending,
        after=after,
        skip=page.skip if after is None else 0,
        limit=min(page.page_size or sizes.default, sizes.most) + 1,
    )


def take(
    request: Message, query: Query, rows: Iterable[tuple[R, Position]], size_of: Callable[[R], int]
) -> tuple[list[R], v1.PageInfo]:
    """Return the rows of one page and where it stands.

    Args:
        request: The List request.
        query: What `start_query` made of it.
        rows: What the query found.
        size_of: Returns the bytes that a row adds to the page.
    """
    taken: list[R] = []
    size = 0
    last: Position = []
    for row, position in rows:
        if len(taken) == query.limit - 1 or size > MOST_BYTES:
            return taken, v1.PageInfo(next_page_token=_token(last, _digest(request)))
        taken.append(row)
        size += size_of(row)
        last = position
    return taken, v1.PageInfo()


def collect(
    request: Message, query: Query, rows: Iterable[tuple[R, Position]], to_message: Callable[[R], M]
) -> tuple[list[M], v1.PageInfo]:
    """Return the messages of one page and where it stands."""
    return take(request, query, ((to_message(row), position) for row, position in rows), lambda m: m.ByteSize())


def _digest(request: Message) -> str:
    """Return what of a request must stay the same from page to page."""
    bare = type(request)()
    bare.CopyFrom(request)
    for field in ("page_token", "page_size", "skip", "with_total_size"):
        bare.page.ClearField(field)  # type: ignore[attr-defined]
    return fingerprint(bare).hex()


def _token(position: Position, digest: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest, position]).encode()).decode()


def _position(token: str, digest: str, length: int) -> Position:
    try:
        of_request, position = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, TypeError, RecursionError) as error:
        raise _invalid_token() from error
    if of_request != digest:
        raise InvalidArgument(
            "page.page_token belongs to a request with other arguments.", reason="PAGE_TOKEN_MISMATCH"
        )
    if not isinstance(position, list) or len(position) != length or not all(map(_is_storable, position)):
        raise _invalid_token()
    return position


def _is_storable(value: object) -> bool:
    return isinstance(value, str) or (type(value) is int and -END_OF_TIME <= value <= END_OF_TIME)


def _invalid_token() -> InvalidArgument:
    return InvalidArgument("page.page_token was not given by this store.", reason="PAGE_TOKEN_INVALID")

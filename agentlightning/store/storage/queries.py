"""What is asked of lists, and how a question is divided into ones that an index answers in their order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, NamedTuple

from agentlightning.store.storage.schema import Table

Position = list[Any]
"""Where a row stands in an ordered list: its order values, then its key."""


class Condition(NamedTuple):
    """A condition on one column. Ids of spans and traces are compared as lower-case hex."""

    column: str
    op: Literal["equals", "in", "contains"]
    value: Any


@dataclass
class Query:
    """Which rows of a list are wanted, and in what order."""

    must: list[Condition] = field(default_factory=list)
    """Conditions that hold always."""
    conditions: list[Condition] = field(default_factory=list)
    """Conditions of the filter; none of them matches everything."""
    match_any: bool = False
    """True when one of `conditions` suffices."""
    order: str = "created"
    """A name of the table's `order`."""
    descending: bool = False
    after: Position | None = None
    """Position of the row before the first."""
    skip: int = 0
    limit: int = 1
    of_state: bool = False
    """True when `must` has one value for each state of the table, and the order is that of creation."""
    merged: int = 1
    """Of how many queries the list is merged; what is read ahead of each is for all to share."""

    @property
    def names_rows(self) -> bool:
        """True when it asks for rows by their ids: these are few, whatever the order."""
        named = [condition.op == "in" and condition.column.endswith("_id") for condition in self.conditions]
        return bool(named) and (all(named) if self.match_any else any(named))


class Part(NamedTuple):
    """A stretch of a list."""

    lead: Position
    """What the position of each of its rows begins with."""
    queries: list[Query]
    """Each asks for rows of one state, in the order of their creation: merged, they are the stretch."""


def divided(table: Table[Any], query: Query) -> list[Part] | None:
    """Divide a query by the states of rows, so that no part of it must be sorted.

    No index holds rows of several states in the order of their creation, but each of a few states in its own; nor does
    one hold rows by the words for their states, but those of one word.

    Returns:
        Stretches of the list, one after the other; None for a query that says nothing of states.
    """
    columns = {condition.column for condition in query.conditions} & table.states.keys()
    by_state = query.order in table.states
    or_else = query.match_any and len(query.conditions) > 1
    if or_else or query.names_rows or not (by_state or (query.order == "created" and columns)):
        return None
    rest = [condition for condition in query.conditions if condition.column not in columns]
    stretches: dict[str, list[Query]] = {}
    for state in product(*(_allowed(table, query, column) for column in table.states)):
        equal = [Condition(column, "equals", value) for column, value in zip(table.states, state, strict=True)]
        word = next((table.states[name][value] for name, _, value in equal if name == query.order), "")
        part = replace(
            query, must=[*query.must, *equal], conditions=rest, match_any=False, order="created", of_state=True
        )
        stretches.setdefault(word, []).append(part)
    if not by_state:
        return [Part([], queries) for queries in stretches.values()]
    parts = [Part([word], queries) for word, queries in sorted(stretches.items(), reverse=query.descending)]
    return parts if query.after is None else [part for part in map(_continued, parts) if part is not None]


def _allowed(table: Table[Any], query: Query, column: str) -> list[int]:
    """Return the values of a column of states that a query lets through."""
    allowed = set(table.states[column])
    for condition in query.conditions:
        if condition.column == column:
            allowed &= set(condition.value)
    return sorted(allowed)


def _continued(part: Part) -> Part | None:
    """Return what of a stretch of a list by states is behind the position of its queries; None for nothing."""
    (word,) = part.lead
    first = part.queries[0]
    assert first.after is not None
    reached, key = str(first.after[0]), first.after[1]
    if word == reached:
        return part._replace(queries=[replace(query, after=[key]) for query in part.queries])
    if (word < reached) != first.descending:
        return None
    return part._replace(queries=[replace(query, after=None) for query in part.queries])

"""Leaving members out of JSON texts without touching anything else in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed lacks it
from typing import Final, TypeAlias


class Edit(Enum):
    """What becomes of a member."""

    REMOVE = "remove"
    """It is left out."""
    NULL = "null"
    """Its value becomes null."""


Rules: TypeAlias = "Mapping[str, Edit | Rules]"
"""What to do with the members of an object by their names. Rules below a name are for the object that is its value, or
for each object of an array."""

_Cut: TypeAlias = tuple[int, int, str]
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_value_at: Final = json.JSONDecoder().raw_decode


def edited(text: bytes, rules: Rules) -> bytes:
    """Returns a JSON text with `rules` applied to it; every other byte stays as it is.

    Numbers keep their digits, strings their escapes, members their order and blanks. What is no JSON is returned as it
    is.
    """
    # Every byte comes back, of whatever encoding it is.
    source = text.decode("utf-8", "surrogateescape")
    cuts: list[_Cut] = []
    try:
        _walk(source, _after_blank(source, 0), rules, cuts)
    except (ValueError, IndexError, RecursionError):
        return text
    if not cuts:
        return text
    parts: list[str] = []
    kept_to = 0
    for start, end, replacement in cuts:
        parts += (source[kept_to:start], replacement)
        kept_to = end
    return "".join([*parts, source[kept_to:]]).encode("utf-8", "surrogateescape")


def _walk(source: str, at: int, rules: Rules, cuts: list[_Cut]) -> int:
    """Notes the cuts in the value that begins at `at`; returns where it ends."""
    if source[at] == "{":
        return _walk_object(source, at, rules, cuts)
    if source[at] == "[":
        return _walk_array(source, at, rules, cuts)
    return _value_at(source, at)[1]


def _walk_array(source: str, at: int, rules: Rules, cuts: list[_Cut]) -> int:
    at = _after_blank(source, at + 1)
    if source[at] == "]":
        return at + 1
    while True:
        at = _after_blank(source, _walk(source, at, rules, cuts))
        if source[at] == "]":
            return at + 1
        at = _after_blank(source, _expect(source, at, ","))


def _walk_object(source: str, at: int, rules: Rules, cuts: list[_Cut]) -> int:
    at = _after_blank(source, at + 1)
    if source[at] == "}":
        return at + 1
    before: int | None = None  # where the member before ended, once one was kept
    while True:
        start = at
        key, at = scanstring(source, _expect(source, at, '"'))
        at = value = _after_blank(source, _expect(source, _after_blank(source, at), ":"))
        rule = rules.get(key)
        end = _value_at(source, at)[1] if rule is None or isinstance(rule, Edit) else _walk(source, at, rule, cuts)
        at = _after_blank(source, end)
        last = source[at] == "}"
        following = at if last else _after_blank(source, _expect(source, at, ","))
        if rule is Edit.REMOVE and before is None:
            cuts.append((start, end if last else following, ""))
        elif rule is Edit.REMOVE and before is not None:
            cuts.append((before, end, ""))
            before = end
        else:
            before = end
            if rule is Edit.NULL and source[value:end] != "null":
                cuts.append((value, end, "null"))
        if last:
            return at + 1
        at = following


def _after_blank(source: str, at: int) -> int:
    if source[at] > " ":
        return at
    match = _BLANK.match(source, at)
    assert match is not None  # it matches nothing at all, too
    return match.end()


def _expect(source: str, at: int, character: str) -> int:
    if source[at] != character:
        raise ValueError(f"expected {character!r} at {at}")
    return at + 1

"""Leaving out members touches nothing else in a JSON text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.gateway.json_edit import Edit, Rules, edited
from agentlightning.gateway.sse import EventSplitter, event

RULES: Rules = {"gone": Edit.REMOVE, "null": Edit.NULL, "in": {"gone": Edit.REMOVE, "null": Edit.NULL}}
NAMES = st.sampled_from(["gone", "null", "in", "a", "\u00fc", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", "\t: ")]), st.booleans())
def test_the_result_is_the_text_of_the_document_without_the_members(
    value: Any, separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    expected = json.dumps(_applied(value, RULES), separators=separators, ensure_ascii=ascii_only)
    assert edited(text.encode("utf-8", "surrogatepass"), RULES).decode("utf-8", "surrogatepass") == expected


def _applied(value: Any, rules: Rules) -> Any:
    if isinstance(value, list):
        return [_applied(item, rules) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, item in value.items():
        rule = rules.get(name)
        if rule is Edit.NULL:
            kept[name] = None
        elif rule is None:
            kept[name] = item
        elif not isinstance(rule, Edit):
            kept[name] = _applied(item, rule)
    return kept


@pytest.mark.parametrize("text", [b"", b"{", b'{"gone"', b'{"gone": 1,}', b"not json", b"\xff", b'{"gone": 1 "a": 2}'])
def test_what_is_no_json_stays_as_it_is(text: bytes) -> None:
    assert edited(text, RULES) == text


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=2), max_size=5), st.data())
def test_events_are_found_however_the_bytes_are_cut(documents: list[dict[str, str]], data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    stream = b"".join(event(document) for document in documents).replace(b"\n", ending)
    splitter = EventSplitter()
    found = []
    position = 0
    while position < len(stream):
        size = data.draw(st.integers(1, 40))
        found += splitter.feed(stream[position : position + size])
        position += size
    assert [each.document() for each in found] == documents
    assert b"".join(each.raw for each in found) == stream
    assert splitter.rest == b""

"""Names of spans and attributes, and the helpers that put attributes together and take them apart."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from agentlightning import OtelTracer, Span, semconv
from agentlightning.semconv import LinkPydanticModel
from agentlightning.types import SpanNames
from agentlightning.utils.attributes import MOST_LEVELS, to_json
from agentlightning.utils.otel import (
    check_attributes_sanity,
    extract_links_from_attributes,
    extract_tags_from_attributes,
    filter_and_unflatten_attributes,
    filter_attributes,
    flatten_attributes,
    format_exception_attributes,
    full_qualified_name,
    get_tracer,
    get_tracer_provider,
    make_link_attributes,
    make_tag_attributes,
    query_linked_spans,
    sanitize_attribute_value,
    sanitize_attributes,
    unflatten_attributes,
)

plain = st.one_of(st.text(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.none())
nested = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4),
        st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), inner, min_size=1, max_size=4),
    ),
    max_leaves=20,
)
roots = st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), nested, max_size=4)
anything = st.recursive(
    st.one_of(plain, st.binary(), st.builds(object), st.characters(categories=["Cs"]), st.complex_numbers()),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.integers() | st.text(), inner),
        st.sets(st.integers()),
    ),
)


def test_names_are_those_of_release_0_3() -> None:
    spans = {name: value for name, value in vars(semconv).items() if name.startswith("AGL_")}
    assert spans == {
        f"AGL_{word.upper()}": f"agentlightning.{word}"
        for word in ("annotation", "exception", "message", "object", "operation", "reward", "virtual")
    }
    assert {SpanNames[word.upper()].value for word in ("reward", "message", "object", "exception", "virtual")} <= {
        *spans.values()
    }
    assert {name.value for name in semconv.LightningResourceAttributes} == {
        "agentlightning.rollout_id",
        "agentlightning.attempt_id",
        "agentlightning.span_sequence_id",
        "agentlightning.tracer.name",
    }
    assert {name.value.removeprefix("agentlightning.") for name in semconv.LightningSpanAttributes} == {
        *("reward", "link", "tag", "message.body", "object.type", "object.literal", "object.json"),
        *("operation.name", "operation.input", "operation.output"),
    }
    assert [name.value for name in semconv.RewardAttributes] == ["name", "value"]
    assert [name.value for name in semconv.LinkAttributes] == ["key_match", "value_match"]


@pytest.mark.parametrize(
    ("given", "flat", "expanded"),
    [
        ({"a": {"b": {"c": 1}}, "d": True}, {"a.b.c": 1, "d": True}, {"a.b.c": 1, "d": True}),
        ({"a": [1, 2.5]}, {"a": [1, 2.5]}, {"a.0": 1, "a.1": 2.5}),
        ({"a": ("x",)}, {"a": ("x",)}, {"a.0": "x"}),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a.0.b": 1, "a.1.b": 2}, {"a.0.b": 1, "a.1.b": 2}),
        ({"a": [1, "x", True]}, {"a.0": 1, "a.1": "x", "a.2": True}, {"a.0": 1, "a.1": "x", "a.2": True}),
        ({"a": [True, 1]}, {"a.0": True, "a.1": 1}, {"a.0": True, "a.1": 1}),
        ({"a": [], "b": {}, "c": None}, {"a": [], "c": None}, {"a": [], "c": None}),
        ({"a": b"x", 1: {2: 3}}, {"a": b"x", "1.2": 3}, {"a": b"x", "1.2": 3}),
        ([1, {"a": 2}], {"0": 1, "1.a": 2}, {"0": 1, "1.a": 2}),
        ([1, 2], {"0": 1, "1": 2}, {"0": 1, "1": 2}),
    ],
)
def test_nested_values_become_flat(given: Any, flat: Any, expanded: Any) -> None:
    assert flatten_attributes(given) == flat
    assert flatten_attributes(given, expand_leaf_lists=True) == expanded


@pytest.mark.parametrize(
    ("flat", "nested"),
    [
        ({"a.b": 1, "l.0": 1, "l.1": {"x": 2}}, {"a": {"b": 1}, "l": [1, {"x": 2}]}),
        ({"0": 1, "1.a": 2}, [1, {"a": 2}]),
        ({"x.0": 1, "x.2": 2}, {"x": {"0": 1, "2": 2}}),
        ({"x.00": 1, "x.1": 2}, {"x": {"00": 1, "1": 2}}),
        ({"a": 1, "a.b": 2}, {"a": {"b": 2}}),
        ({"a.b": 2, "a": 1}, {"a": 1}),
        ({"a": {"0": "kept"}, "b.0.0": 1}, {"a": {"0": "kept"}, "b": [[1]]}),
        ({}, {}),
    ],
)
def test_flat_attributes_become_nested(flat: Any, nested: Any) -> None:
    assert unflatten_attributes(flat) == nested


@given(roots)
def test_flattening_loses_nothing(value: Any) -> None:
    assert unflatten_attributes(flatten_attributes(value)) == value
    assert unflatten_attributes(flatten_attributes(value, expand_leaf_lists=True)) == value


def test_a_value_that_contains_itself_stays_where_it_comes_again() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["again"] = [loop]
    assert flatten_attributes(loop) == {"a": 1, "again.0": loop}
    twice = {"x": 1}
    assert flatten_attributes({"a": twice, "b": twice}) == {"a.x": 1, "b.x": 1}


def test_depth_is_no_danger() -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = {"x": deep}
    (path,) = flatten_attributes({"x": deep})
    assert path == ".".join("x" * MOST_LEVELS)
    assert sanitize_attributes(flatten_attributes({"x": deep})) == {path: '"<dict>"'}
    while isinstance(deep, dict):
        deep = deep.pop("x")


def test_attributes_are_filtered_by_prefix() -> None:
    attributes = {"a": 0, "a.0.b": 1, "a.1.b": 2, "ab": 3}
    assert filter_attributes(attributes, "a") == {"a": 0, "a.0.b": 1, "a.1.b": 2}
    del attributes["a"]
    assert filter_and_unflatten_attributes(attributes, "a") == [{"b": 1}, {"b": 2}]
    assert filter_and_unflatten_attributes(attributes, "a.0") == {"b": 1}
    assert filter_and_unflatten_attributes(attributes, "b") == {}
    with pytest.raises(ValueError, match="'ab' is a value itself"):
        filter_and_unflatten_attributes(attributes, "ab")


@pytest.mark.parametrize(
    ("given", "sane"),
    [
        (1, 1),
        ("a", "a"),
        (True, True),
        (None, "null"),
        ([1, 2], [1, 2]),
        ((1, 2.5), [1.0, 2.5]),
        ([], []),
        ([1, "a"], '[1, "a"]'),
        ([True, 1], "[true, 1]"),
        ([None], "[null]"),
        ({"a": 1}, '{"a": 1}'),
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        ([2**63], f"[{2**63}]"),
        ("\ud83d", "\\ud83d"),
        (["\ud83d"], ["\\ud83d"]),
        (range(3), [0, 1, 2]),
        (b"\xff", '"/w=="'),
        ({1}, "[1]"),
    ],
)
def test_values_become_what_a_span_can_hold(given: Any, sane: Any) -> None:
    for force in (True, False):
        value = sanitize_attribute_value(given, force)
        assert (value, type(value)) == (sane, type(sane))
    check_attributes_sanity({"x": value})


@given(anything)
def test_everything_becomes_what_a_span_can_hold(value: Any) -> None:
    sane = sanitize_attributes(flatten_attributes({"x": value}))
    check_attributes_sanity(sane)
    Span.from_attributes(attributes=sane).model_dump_json().encode()


def test_without_force_what_json_cannot_express_is_refused() -> None:
    assert json.loads(str(sanitize_attribute_value({"a": object}))) == {"a": "<class 'object'>"}
    with pytest.raises(ValueError, match=r"a dict cannot be written as JSON: .*type"):
        sanitize_attribute_value({"a": object}, force=False)
    with pytest.raises(ValueError, match=r"attribute 'k': a dict"):
        sanitize_attributes({"k": {"a": object}}, force=False)


def test_iterators_are_never_used_up() -> None:
    class Holder(OrderedDict[str, Any]):
        pass

    numbers = (number for number in range(3))
    lines = iter(["a"])
    to_json(Holder(stream=numbers, lines=[lines]), force=True)
    assert (list(numbers), list(lines)) == ([0, 1, 2], ["a"])


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({1: "a"}, "names must be strings, not int: 1"),
        ({"a": None}, "'a' cannot hold a NoneType"),
        ({"a": {}}, "'a' cannot hold a dict"),
        ({"a": b""}, "'a' cannot hold a bytes"),
        ({"a": [1, "x"]}, "'a' cannot hold a list of int, str"),
        ({"a": [None]}, "'a' cannot hold a list of NoneType"),
    ],
)
def test_insane_attributes_are_named(attributes: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_attributes_sanity(attributes)


def test_tags() -> None:
    attributes = make_tag_attributes(["a", "b"])
    assert attributes == {"agentlightning.tag.0": "a", "agentlightning.tag.1": "b"}
    assert extract_tags_from_attributes({**attributes, "other": 1}) == ["a", "b"]
    assert extract_tags_from_attributes({"agentlightning.tag": ("a", "b")}) == ["a", "b"]
    assert extract_tags_from_attributes({"agentlightning.tag.odd": "a"}) == []
    assert extract_tags_from_attributes({}) == []


def test_links() -> None:
    attributes = make_link_attributes({"gen_ai.response.id": "x", "trace_id": "y"})
    assert attributes == {
        "agentlightning.link.0.key_match": "gen_ai.response.id",
        "agentlightning.link.0.value_match": "x",
        "agentlightning.link.1.key_match": "trace_id",
        "agentlightning.link.1.value_match": "y",
    }
    assert extract_links_from_attributes({**attributes, "other": 1}) == [
        LinkPydanticModel(key_match="gen_ai.response.id", value_match="x"),
        LinkPydanticModel(key_match="trace_id", value_match="y"),
    ]
    assert extract_links_from_attributes({}) == []
    with pytest.raises(ValueError, match="value_match"):
        extract_links_from_attributes({"agentlightning.link.0.key_match": "x"})
    with pytest.raises(ValueError, match="link 'x' must match a string, not a int"):
        make_link_attributes({"x": 1})  # type: ignore[dict-item]


def test_linked_spans_are_those_that_every_link_matches() -> None:
    spans = [Span.from_attributes(attributes={"id": name, "kind": "call"}) for name in "abc"]

    def linked(**links: str) -> list[Span]:
        return query_linked_spans(spans, extract_links_from_attributes(make_link_attributes(links)))

    assert linked(id="b") == [spans[1]]
    assert linked(kind="call") == spans
    assert linked(id="b", kind="call") == [spans[1]]
    assert linked(id="b", kind="other") == []
    assert linked(span_id=spans[2].span_id) == [spans[2]]
    assert linked(trace_id=spans[0].trace_id, id="a") == [spans[0]]
    assert linked(trace_id=spans[0].trace_id, id="b") == []
    assert linked() == spans


def test_links_find_spans_of_opentelemetry_too() -> None:
    span: Any = TracerProvider(shutdown_on_exit=False).get_tracer("x").start_span("call", attributes={"id": "a"})
    span.end()
    context = span.get_span_context()
    for links in ({"id": "a"}, {"trace_id": f"{context.trace_id:032x}"}, {"span_id": f"{context.span_id:016x}"}):
        parsed = extract_links_from_attributes(make_link_attributes(links))
        assert query_linked_spans([span], parsed) == [span]
    assert query_linked_spans([span], [LinkPydanticModel(key_match="span_id", value_match="0")]) == []


def test_exceptions_become_attributes() -> None:
    class Odd(Exception):
        pass

    attributes = format_exception_attributes(Odd("x"))
    assert attributes["exception.type"] == f"{__name__}.test_exceptions_become_attributes.<locals>.Odd"
    assert attributes["exception.message"] == "x"
    assert str(attributes["exception.stacktrace"]).endswith("Odd: x\n")
    assert attributes["exception.escaped"] is True
    assert full_qualified_name(ValueError) == "ValueError"
    assert full_qualified_name(OrderedDict) == "collections.OrderedDict"


async def test_tracers_of_opentelemetry_record_into_the_open_trace() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        assert get_tracer_provider() is tracer.tracer_provider
        get_tracer().start_span("recorded").end()
        get_tracer(use_active_span_processor=False).start_span("unrecorded").end()
    assert [span.name for span in tracer.get_last_trace()] == ["recorded"]


NO_PROVIDER = """
from agentlightning.utils.otel import get_tracer, get_tracer_provider
try:
    get_tracer()
except RuntimeError as error:
    assert "no tracer provider here" in str(error), error
else:
    raise AssertionError
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
provider = TracerProvider()
trace.set_tracer_provider(provider)
assert get_tracer_provider() is provider
"""


def test_without_a_provider_there_is_no_tracer() -> None:
    subprocess.run([sys.executable, "-c", NO_PROVIDER], check=True, timeout=60)


def test_nan_stays_nan() -> None:
    assert math.isnan(sanitize_attribute_value(math.nan))  # type: ignore[arg-type]

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.codec.errors import CodecError
from agentlightning.codec.payload import from_payload, object_from_payload, object_to_payload, to_payload
from lightning_store import v1

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_json_can_carry_comes_back_exactly(value: Any) -> None:
    payload = v1.Payload.FromString(to_payload(value, "input").SerializeToString())
    assert payload.content_type == "application/json"
    back = from_payload(payload, "input")
    assert repr(back) == repr(value)


def test_the_payload_is_json_that_any_language_reads() -> None:
    assert to_payload({"ü": [1, None, True, 0.5]}, "input").data == '{"ü":[1,null,true,0.5]}'.encode()


def test_integers_are_exact_at_any_size() -> None:
    big = 2**200 + 1
    assert from_payload(to_payload([big, -big], "input"), "input") == [big, -big]


def test_tuples_become_lists() -> None:
    point = namedtuple("point", "x y")  # noqa: PYI024 - untyped ones occur in user code
    assert from_payload(to_payload({"a": (1, (2,)), "b": point(1, 2)}, "input"), "input") == {
        "a": [1, [2]],
        "b": [1, 2],
    }


def test_subclasses_of_what_json_knows_are_carried_as_what_they_are() -> None:
    class Colour(str, enum.Enum):
        RED = "red"

    value = OrderedDict(colour=Colour.RED, level=enum.IntEnum("Level", "LOW").LOW)
    assert from_payload(to_payload(value, "input"), "input") == {"colour": "red", "level": 1}


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)

DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": [0, 1, 2, {"score": math.nan}]}, r"input\.messages\[3\]\.score is nan"),
        ([math.inf], r"input\[0\] is inf"),
        ([[-math.inf]], r"input\[0\]\[0\] is -inf"),
        ({"a": {1: 2}}, r"input\.a has the key 1; keys of JSON are strings"),
        ({None: 2}, r"input has the key None"),
        ({True: 2}, r"input has the key True"),
        ({"a b": {1, 2}}, r"input\['a b'\] is a set"),
        ({"a": object()}, r"input\.a is a object"),
        (b"raw", r"input is a bytes"),
        ({"a": "\ud800"}, r"input\.a has half of a surrogate pair"),
        ({"\ud800": 1}, r"a key of input has half of a surrogate pair"),
        ([10**5000], r"input\[0\] is a int"),
        (CIRCLE, r"input\[0\] contains itself"),
        (DEEP, r"input is nested too deeply"),
        ({"tuple": (1, {2: 3})}, r"input\.tuple\[1\] has the key 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_json_cannot_carry_is_named(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        to_payload(value, "input")


def test_one_value_in_two_places_is_no_circle() -> None:
    shared = [1]
    assert from_payload(to_payload([shared, shared], "input"), "input") == [[1], [1]]


@pytest.mark.parametrize("content_type", ["", "application/x-pickle", "application/json; charset=utf-8"])
def test_an_unknown_content_type_is_named(content_type: str) -> None:
    with pytest.raises(CodecError, match="rollout input has the content type"):
        from_payload(v1.Payload(content_type=content_type, data=b"1"), "rollout input")


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b'{"a":Infinity}', b"\xff", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="input is not JSON that can be read"):
        from_payload(v1.Payload(content_type="application/json", data=data), "input")


def test_objects_are_dictionaries_or_nothing() -> None:
    for value in ({}, {"a": [1]}, None):
        assert object_from_payload(object_to_payload(value, "metadata"), "metadata") == value
    with pytest.raises(TypeError, match="metadata must be a dictionary, not a list"):
        object_to_payload([], "metadata")  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="metadata is a JSON list"):
        object_from_payload(v1.Payload(content_type="application/json", data=json.dumps([1]).encode()), "metadata")

"""Whatever a request holds, it is answered in order and not with a fault of the server."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from connect_calls import enveloped, envelopes_in
from described_routes import OTHERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_calls import Switchboard

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.methods import METHODS, Method

# A caller that waits for work or watches is not answered before its time is up.
HEADERS = {"Connect-Timeout-Ms": "20"}
MAY_WAIT = {"deadline_exceeded"}


@pytest.fixture(scope="module")
def client(switchboard: Switchboard) -> Iterator[httpx.Client]:
    """Calls a store in memory that all examples share."""
    store = InMemoryLightningStore()
    with switchboard.serving(store) as url, httpx.Client(base_url=url, timeout=20) as opened:
        yield opened
    store.close_now()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["ro-1", "latest", "5s", "-1s", "1e400", "9223372036854775808", "2024-01-01T00:00:00Z", "AAAA"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def like(message: Any, depth: int = 3) -> st.SearchStrategy[Any]:
    """JSON that has fields of a message, with values that may fit or not."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in message.fields:
        value: st.SearchStrategy[Any] = VALUES
        if field.message_type is not None and depth:
            inside = like(field.message_type, depth - 1)
            value = inside | st.lists(inside, max_size=2) | VALUES
        elif field.enum_type is not None:
            value = st.sampled_from([one.name for one in field.enum_type.values]) | VALUES
        fields[field.json_name] = value
    return st.fixed_dictionaries({}, optional=fields)


def bodies(method: Method) -> st.SearchStrategy[bytes]:
    """Bodies for a method: requests more or less, and what is none at all."""
    written = like(method.request.DESCRIPTOR).map(lambda value: json.dumps(value).encode())
    nested = st.integers(1, 5000).map(lambda depth: b'{"x":' * depth)
    return written | VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60) | nested


CALLS = st.sampled_from(METHODS).flatmap(
    lambda method: st.tuples(
        st.just(method),
        bodies(method),
        st.sampled_from(["json", "proto"]),
        st.booleans(),
        st.sampled_from([0, 0, 1, 7]),
    )
)


def in_order(answer: httpx.Response) -> None:
    """Checks that an answer is one of the store's, and no fault of the server."""
    assert b"Traceback" not in answer.content
    if answer.headers["content-type"].startswith("application/connect+"):
        assert answer.status_code == 200
        flags, end = envelopes_in(answer.content)[-1]
        assert flags == 2
        error = json.loads(end).get("error", {"code": "none"})
    elif answer.status_code == 200:
        return
    else:
        error = answer.json()
    assert error["code"] not in ("internal", "unavailable", "unimplemented"), error
    assert answer.status_code < 500 or error["code"] in MAY_WAIT, error


@given(call=CALLS)
@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_body_of_a_call_is_a_fault_of_the_server(
    call: tuple[Method, bytes, str, bool, int], client: httpx.Client
) -> None:
    method, body, form, packs, flags = call
    headers = dict(HEADERS)
    if packs:
        body = gzip.compress(body)
        headers["Connect-Content-Encoding" if method.streams else "Content-Encoding"] = "gzip"
    if method.streams:
        body = enveloped(body, flags | packs)
        form = f"connect+{form}"
    in_order(client.post(method.path, content=body, headers={"Content-Type": f"application/{form}", **headers}))


@given(body=st.binary(max_size=60), method=st.sampled_from(METHODS), form=st.sampled_from(["json", "proto"]))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_stream_of_bytes_is_a_fault_of_the_server(
    body: bytes, method: Method, form: str, client: httpx.Client
) -> None:
    media_type = f"application/connect+{form}" if method.streams else f"application/{form}"
    in_order(client.post(method.path, content=body, headers={"Content-Type": media_type, **HEADERS}))


@given(
    route=st.sampled_from([*OTHERS, ("/nowhere", "post"), ("/task", "put")]),
    body=VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
    content_type=st.sampled_from(["application/json", "application/x-protobuf", "text/plain", "multipart/form-data"]),
    packing=st.sampled_from(["", "said", "done"]),
)
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_body_on_any_other_route_is_a_fault_of_the_server(
    route: tuple[str, str], body: bytes, content_type: str, packing: str, client: httpx.Client
) -> None:
    path, verb = route
    headers = {"Content-Type": content_type, **({"Content-Encoding": "gzip"} if packing else {})}
    sent = gzip.compress(body) if packing == "done" else body
    answer = client.request(verb, re.sub(r"{.*?}", "x", path), content=sent, headers=headers)
    assert b"Traceback" not in answer.content
    assert answer.status_code < 500

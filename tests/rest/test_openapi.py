"""What the OpenAPI description says is so, and nothing that it allows is a fault of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from rest_calls import Switchboard

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.methods import METHODS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: `make test-http` has it")
not_a_server_error = pytest.importorskip("schemathesis.checks").not_a_server_error
response_schema_conformance = pytest.importorskip("schemathesis.specs.openapi.checks").response_schema_conformance

CONTRACT = [method.path for method in METHODS if not method.streams]


@pytest.fixture(scope="module")
def app_url(switchboard: Switchboard) -> Iterator[str]:
    """The server in front of a store in memory that all examples share."""
    store = InMemoryLightningStore()
    with switchboard.serving(store) as url:
        yield url
    store.close_now()


@pytest.fixture(scope="module")
def described(app_url: str) -> Any:
    """What the server says of itself."""
    return schemathesis.openapi.from_url(f"{app_url}/openapi.json")


def try_out(operation: Any, checks: list[Callable[..., Any]], examples: int) -> None:
    """Sends requests as an operation is described to take, and checks the answers."""

    @given(case=operation.as_strategy())
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def send(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body.pop("wait", None)  # a server may take the time that it is asked to take
        case.headers.pop("connect-timeout-ms", None)  # and has not failed when it was given too little
        case.validate_response(case.call(timeout=20), checks=checks)

    send()


@pytest.mark.parametrize("path", CONTRACT)
def test_a_method_of_the_contract_answers_as_it_is_described(path: str, described: Any) -> None:
    try_out(described[path]["POST"], [not_a_server_error, response_schema_conformance], examples=25)


def test_no_other_route_fails(described: Any) -> None:
    operations = [found.ok() for found in described.get_all_operations()]
    others = [operation for operation in operations if operation.path not in CONTRACT]
    assert len(others) >= 4
    for operation in others:
        try_out(operation, [not_a_server_error], examples=40)


def test_the_page_for_people_is_served(app_url: str) -> None:
    assert "swagger" in httpx.get(f"{app_url}/docs").text

"""What the OpenAPI description says is so, and nothing that it allows is a fault of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from described_routes import CONTRACT, OTHERS
from hypothesis import HealthCheck, given, settings
from rest_calls import Switchboard

from agentlightning.store.memory import InMemoryLightningStore

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: `make test-http` has it")
not_a_server_error = pytest.importorskip("schemathesis.checks").not_a_server_error
response_schema_conformance = pytest.importorskip("schemathesis.specs.openapi.checks").response_schema_conformance

# A request may ask the server to take its time.
WAITS = {"wait": "0s", "timeout": 0}


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
            case.body.update({name: soon for name, soon in WAITS.items() if name in case.body})
        case.headers.pop("connect-timeout-ms", None)  # with which a server has not failed that was too late
        case.validate_response(case.call(timeout=20), checks=checks)

    send()


@pytest.mark.parametrize("path", CONTRACT)
def test_a_method_of_the_contract_answers_as_it_is_described(path: str, described: Any) -> None:
    try_out(described[path]["POST"], [not_a_server_error, response_schema_conformance], examples=25)


@pytest.mark.parametrize(("path", "verb"), OTHERS)
def test_no_other_route_fails(path: str, verb: str, described: Any) -> None:
    try_out(described[path][verb], [not_a_server_error], examples=25)


def test_the_page_for_people_is_served(app_url: str) -> None:
    assert "swagger" in httpx.get(f"{app_url}/docs").text

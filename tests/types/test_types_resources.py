from __future__ import annotations

import importlib.util
import logging
import sys

import pytest
from pydantic import ValidationError

from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    CustomResource,
    PromptTemplate,
    ProxyLLM,
    ResourcesUpdate,
)


def make_rollout() -> AttemptedRollout:
    attempt = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=1.0)
    return AttemptedRollout(rollout_id="ro-1", input=None, start_time=1.0, attempt=attempt)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://gate:1/v1", "http://gate:1/rollout/r/attempt/a/v1"),
        ("http://gate:1/v1/", "http://gate:1/rollout/r/attempt/a/v1"),
        ("http://gate:1", "http://gate:1/rollout/r/attempt/a"),
        ("http://gate:1/", "http://gate:1/rollout/r/attempt/a"),
        ("http://gate:1/openai/v1", "http://gate:1/openai/rollout/r/attempt/a/v1"),
    ],
)
def test_a_proxied_model_names_the_attempt_before_the_version(endpoint: str, expected: str) -> None:
    assert ProxyLLM(endpoint=endpoint, model="m").get_base_url("r", "a") == expected


def test_a_proxied_model_without_an_attempt_is_the_plain_endpoint() -> None:
    assert ProxyLLM(endpoint="http://gate/v1", model="m").get_base_url(None, None) == "http://gate/v1"


@pytest.mark.parametrize(("rollout_id", "attempt_id"), [("r", None), (None, "a")])
def test_half_an_attempt_is_refused(rollout_id: str | None, attempt_id: str | None) -> None:
    with pytest.raises(ValueError, match="together"):
        ProxyLLM(endpoint="http://gate/v1", model="m").get_base_url(rollout_id, attempt_id)


def test_a_proxied_model_becomes_a_plain_one_for_an_attempt() -> None:
    proxy = ProxyLLM(endpoint="http://gate/v1", model="m", api_key="k", sampling_parameters={"temperature": 0.5})
    llm = proxy.with_attempted_rollout(make_rollout())
    assert type(llm) is LLM
    assert llm == LLM(
        endpoint="http://gate/rollout/ro-1/attempt/at-1/v1",
        model="m",
        api_key="k",
        sampling_parameters={"temperature": 0.5},
    )
    llm.sampling_parameters["temperature"] = 1.0
    assert proxy.sampling_parameters == {"temperature": 0.5}


def test_only_reading_the_endpoint_of_a_proxied_model_warns(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    proxy = ProxyLLM(endpoint="http://gate/v1", model="m")
    assert proxy == ProxyLLM(endpoint="http://gate/v1", model="m")
    assert proxy.model_dump()["endpoint"] == "http://gate/v1"
    assert "gate" in proxy.model_dump_json()
    assert "gate" in repr(proxy)
    assert proxy.model_copy(deep=True) == proxy
    assert proxy.get_base_url("r", "a")
    assert caplog.records == []
    assert proxy.endpoint == "http://gate/v1"
    assert "get_base_url" in caplog.text


def test_a_plain_model_ignores_who_asks_for_its_url() -> None:
    assert LLM(endpoint="http://x/v1", model="m").get_base_url("r", "a") == "http://x/v1"


def test_f_string_templates_fill_names_items_and_formats() -> None:
    template = PromptTemplate(template="{name}: {record[city]} {score:.2f} {{literal}}", engine="f-string")
    assert template.format(name="Q", record={"city": "Bern"}, score=0.5) == "Q: Bern 0.50 {literal}"


def test_a_missing_name_of_an_f_string_template_is_named() -> None:
    with pytest.raises(KeyError, match="task"):
        PromptTemplate(template="{task}", engine="f-string").format(text="x")


@pytest.mark.parametrize("engine", ["jinja", "poml"])
def test_an_engine_that_is_not_installed_says_what_to_install(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"jinja": "jinja2", "poml": "poml"}[engine]
    monkeypatch.setitem(sys.modules, package, None)
    template = PromptTemplate(template="{{ a }}", engine=engine)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=f"pip install {package}"):
        template.format(a=1)


@pytest.mark.skipif(importlib.util.find_spec("jinja2") is None, reason="jinja2 is not installed")
def test_jinja_templates_are_filled_in_a_sandbox() -> None:
    from jinja2 import UndefinedError
    from jinja2.exceptions import SecurityError

    assert PromptTemplate(template="{% for x in xs %}{{ x }};{% endfor %}\n", engine="jinja").format(xs=[1, 2]) == (
        "1;2;\n"
    )
    with pytest.raises(UndefinedError):
        PromptTemplate(template="{{ missing }}", engine="jinja").format()
    with pytest.raises(SecurityError):
        PromptTemplate(template="{{ x.__class__.__mro__ }}", engine="jinja").format(x=1)


def test_resources_are_told_apart_by_their_type_and_keep_their_order() -> None:
    update = ResourcesUpdate.model_validate(
        {
            "resources_id": "rs-1",
            "create_time": 1.0,
            "update_time": 2.0,
            "version": 1,
            "resources": {
                "z": {"resource_type": "prompt_template", "template": "t", "engine": "jinja"},
                "a": {"resource_type": "proxy_llm", "endpoint": "e", "model": "m"},
                "m": {"resource_type": "llm", "endpoint": "e", "model": "m"},
                "own": {"resource_type": "adapter", "rank": 8},
            },
        }
    )
    assert list(update.resources) == ["z", "a", "m", "own"]
    assert [type(resource) for resource in update.resources.values()] == [PromptTemplate, ProxyLLM, LLM, CustomResource]
    assert ResourcesUpdate.model_validate_json(update.model_dump_json()) == update


def test_a_resource_without_a_type_is_refused() -> None:
    with pytest.raises(ValidationError):
        ResourcesUpdate.model_validate(
            {"resources_id": "rs-1", "create_time": 1, "update_time": 1, "version": 1, "resources": {"a": {}}}
        )

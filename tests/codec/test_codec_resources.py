from __future__ import annotations

import logging
import math
from typing import Any, Literal

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agentlightning.codec.errors import CodecError
from agentlightning.codec.resources import resources_from_message, resources_to_messages
from agentlightning.types import LLM, CustomResource, PromptTemplate, ProxyLLM, Resource, ResourcesUpdate
from lightning_store import v1


def through_the_wire(resources: dict[str, Any]) -> ResourcesUpdate:
    message = v1.Resources(
        resources_id="rs-1",
        version=4,
        resources=resources_to_messages(resources),
        create_time=Timestamp(seconds=1),
        update_time=Timestamp(seconds=2, nanos=500_000_000),
    )
    return resources_from_message(v1.Resources.FromString(message.SerializeToString()))


def test_resources_come_back_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    resources: dict[str, Any] = {
        "z": LLM(endpoint="e", model="m", api_key="k", sampling_parameters={"stop": ["a"], "n": 2**70}),
        "a": ProxyLLM(endpoint="e/v1", model="m"),
        "p": PromptTemplate(template="{x}", engine="f-string"),
        "own": CustomResource.model_validate({"resource_type": "lora", "rank": 8, "targets": ["q", "v"]}),
    }
    update = through_the_wire(resources)
    expected = ResourcesUpdate(resources_id="rs-1", create_time=1.0, update_time=2.5, version=4, resources=resources)
    assert update == expected
    assert list(update.resources) == ["z", "a", "p", "own"]
    assert [type(resource) for resource in update.resources.values()] == [LLM, ProxyLLM, PromptTemplate, CustomResource]
    assert update.model_dump() == expected.model_dump()
    assert caplog.records == []


def test_an_empty_key_is_not_no_key() -> None:
    update = through_the_wire({"a": LLM(endpoint="e", model="m", api_key=""), "b": LLM(endpoint="e", model="m")})
    assert isinstance(update.resources["a"], LLM)
    assert isinstance(update.resources["b"], LLM)
    assert (update.resources["a"].api_key, update.resources["b"].api_key) == ("", None)


def test_a_users_own_type_comes_back_as_a_custom_resource() -> None:
    class Adapter(Resource):
        resource_type: Literal["adapter"] = "adapter"
        rank: int

    update = through_the_wire({"a": Adapter(rank=4)})
    assert update.resources["a"] == CustomResource.model_validate({"resource_type": "adapter", "rank": 4})


class Tuned(LLM):
    temperature: float = 1.0


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ({"resource_type": "llm"}, r"resources\['main'\] must be a resource, not a dict"),
        (
            LLM(endpoint="e", model="m", sampling_parameters={"t": math.nan}),
            r"resources\['main'\]\.sampling_parameters\.t is nan",
        ),
        (Tuned(endpoint="e", model="m"), r"resources\['main'\]\.temperature is no field of LLM"),
        (CustomResource.model_validate({"resource_type": "x", "y": {1}}), r"resources\['main'\]\.y is a set"),
        (CustomResource.model_construct(resource_type="llm"), r"resources\['main'\] is a CustomResource"),
        (Resource(resource_type=3), r"resources\['main'\]\.resource_type must be a string"),
    ],
)
def test_what_is_no_resource_is_named(resource: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        resources_to_messages({"main": resource})


@pytest.mark.parametrize(
    "resource",
    [
        v1.Resource(),
        v1.Resource(prompt_template=v1.PromptTemplate(template="t", engine="mustache")),
        v1.Resource(custom=v1.CustomResource(resource_type="x", body=v1.Payload(content_type="text/plain"))),
    ],
)
def test_a_resource_of_a_newer_contract_is_named(resource: v1.Resource) -> None:
    message = v1.Resources(resources=[v1.NamedResource(name="main", resource=resource)])
    with pytest.raises(CodecError, match=r"resources\['main'\]"):
        resources_from_message(message)

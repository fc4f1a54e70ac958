"""Resources."""

from __future__ import annotations

from typing import Any

from agentlightning.codec.errors import CodecError
from agentlightning.codec.models import build
from agentlightning.codec.payload import object_from_payload, object_to_payload
from agentlightning.codec.times import from_timestamp
from agentlightning.types import (
    LLM,
    CustomResource,
    NamedResources,
    PromptTemplate,
    ProxyLLM,
    Resource,
    ResourcesUpdate,
)
from lightning_store import v1

_BUILT_IN: dict[str, type[Resource]] = {"llm": LLM, "proxy_llm": ProxyLLM, "prompt_template": PromptTemplate}


def resources_to_messages(resources: NamedResources) -> list[v1.NamedResource]:
    """Encodes resources in their order.

    Raises:
        TypeError: One of them is no resource, or part of it cannot be carried; the message names it.
    """
    return [
        v1.NamedResource(name=name, resource=_resource_to_message(resource, f"resources[{name!r}]"))
        for name, resource in resources.items()
    ]


def resources_from_message(message: v1.Resources) -> ResourcesUpdate:
    """Decodes a published set."""
    return build(
        ResourcesUpdate,
        {
            "resources_id": message.resources_id,
            "create_time": from_timestamp(message.create_time),
            "update_time": from_timestamp(message.update_time),
            "version": message.version,
            "resources": {
                named.name: _resource_from_message(named.resource, f"resources[{named.name!r}]")
                for named in message.resources
            },
        },
    )


def _resource_to_message(resource: Any, path: str) -> v1.Resource:
    if not isinstance(resource, Resource):
        raise TypeError(f"{path} must be a resource, not a {type(resource).__name__}")
    built_in = _BUILT_IN.get(resource.resource_type)
    if built_in is None:
        fields = resource.model_dump()
        resource_type = fields.pop("resource_type")
        if not isinstance(resource_type, str):
            raise TypeError(f"{path}.resource_type must be a string, not {resource_type!r}")
        body = object_to_payload(fields, path)
        return v1.Resource(custom=v1.CustomResource(resource_type=resource_type, body=body))
    if not isinstance(resource, built_in):
        raise TypeError(f"{path} is a {type(resource).__name__} with the resource_type of {built_in.__name__}")
    further = type(resource).model_fields.keys() - built_in.model_fields.keys()
    if further:
        raise TypeError(
            f"{path}.{min(further)} is no field of {built_in.__name__}; give {type(resource).__name__} a resource_type "
            "of its own"
        )
    if isinstance(resource, PromptTemplate):
        return v1.Resource(prompt_template=v1.PromptTemplate(template=resource.template, engine=resource.engine))
    if isinstance(resource, ProxyLLM):
        return v1.Resource(proxy_llm=v1.ProxyLLM(llm=_llm_to_message(resource, path)))
    assert isinstance(resource, LLM)
    return v1.Resource(llm=_llm_to_message(resource, path))


def _llm_to_message(llm: LLM, path: str) -> v1.LLM:
    return v1.LLM(
        # Not `llm.endpoint`: reading that of a ProxyLLM warns.
        endpoint=llm.__dict__["endpoint"],
        model=llm.model,
        api_key=llm.api_key,
        sampling_parameters=object_to_payload(llm.sampling_parameters, f"{path}.sampling_parameters"),
    )


def _resource_from_message(message: v1.Resource, path: str) -> Resource:
    kind = message.WhichOneof("kind")
    if kind == "llm":
        return build(LLM, _llm_fields(message.llm, "llm", path))
    if kind == "proxy_llm":
        return build(ProxyLLM, _llm_fields(message.proxy_llm.llm, "proxy_llm", path))
    if kind == "prompt_template":
        engine = message.prompt_template.engine
        if engine not in ("f-string", "jinja", "poml"):
            raise CodecError(f"{path}.engine is {engine!r}, which this release does not know")
        return build(
            PromptTemplate,
            {"resource_type": "prompt_template", "template": message.prompt_template.template, "engine": engine},
        )
    if kind == "custom":
        body = object_from_payload(message.custom.body, path) if message.custom.HasField("body") else None
        return build(CustomResource, {"resource_type": message.custom.resource_type}, body or {})
    raise CodecError(f"{path} is of a kind that this release does not know")


def _llm_fields(message: v1.LLM, resource_type: str, path: str) -> dict[str, Any]:
    parameters = (
        object_from_payload(message.sampling_parameters, f"{path}.sampling_parameters")
        if message.HasField("sampling_parameters")
        else None
    )
    return {
        "resource_type": resource_type,
        "endpoint": message.endpoint,
        "model": message.model,
        "api_key": message.api_key if message.HasField("api_key") else None,
        "sampling_parameters": parameters or {},
    }

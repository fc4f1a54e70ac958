"""The methods of the contract, read from its descriptors: what server and client bind `StoreApi` to gRPC with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from lightning_store import v1
from lightning_store.v1 import (
    attempt_service_pb2,
    resources_service_pb2,
    rollout_service_pb2,
    span_service_pb2,
    store_service_pb2,
    worker_service_pb2,
)


@dataclass(frozen=True)
class Method:
    """A method of the contract."""

    name: str
    """Its name in `StoreApi`."""
    service: str
    """Full name of its service."""
    rpc: str
    """Its name in the service."""
    request: Any
    """Class of the request."""
    response: Any
    """Class of the answer, or of each message of the stream."""
    streams: bool
    """True when the answer is a stream."""

    @property
    def may_last(self) -> bool:
        """True when a call may be held: a stream, or a wait for work."""
        return self.streams or self.name == "dequeue_rollouts"

    @property
    def path(self) -> str:
        """Its path on the wire."""
        return f"/{self.service}/{self.rpc}"


def _method(descriptor: MethodDescriptor) -> Method:
    return Method(
        name=re.sub(r"(?<!^)(?=[A-Z])", "_", descriptor.name).lower(),
        service=descriptor.containing_service.full_name,
        rpc=descriptor.name,
        request=getattr(v1, descriptor.input_type.name),
        response=getattr(v1, descriptor.output_type.name),
        streams=descriptor.server_streaming,
    )


METHODS = tuple(
    _method(descriptor)
    for module in (
        rollout_service_pb2,
        attempt_service_pb2,
        span_service_pb2,
        resources_service_pb2,
        worker_service_pb2,
        store_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for descriptor in service.methods
)
"""Every method, in the order of the contract."""

SERVICES = tuple(dict.fromkeys(method.service for method in METHODS))
"""The full names of the services."""

EXPERIMENT_KEY = "agl-experiment"
"""Call metadata that names the experiment."""

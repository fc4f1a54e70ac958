"""Health, reflection and keepalive on the port of the store."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from store_process import StoreProcess

from agentlightning.store.methods import METHODS, SERVICES
from lightning_store import v1
from lightning_store.v1 import store_service_pb2_grpc

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@pytest.fixture
def health(channel: grpc.Channel) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", *SERVICES, TRACE_SERVICE])
def test_every_service_tells_that_it_serves(health: health_pb2_grpc.HealthStub, service: str) -> None:
    answer = health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_an_unknown_service_is_not_found(health: health_pb2_grpc.HealthStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def reflect(
    channel: grpc.Channel, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    """Ask the server what it serves."""
    answers: Iterator[reflection_pb2.ServerReflectionResponse]
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    return next(answers)


def test_reflection_lists_every_service(channel: grpc.Channel) -> None:
    answer = reflect(channel, reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed == {
        *SERVICES,
        TRACE_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("service", [*SERVICES, TRACE_SERVICE])
def test_reflection_describes_every_service(channel: grpc.Channel, service: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    described = b"".join(reflect(channel, request).file_descriptor_response.file_descriptor_proto)
    for method in METHODS:
        if method.service == service:
            assert method.rpc.encode() in described
    assert service.rpartition(".")[2].encode() in described


def test_a_client_may_ping_as_often_as_it_likes(server: StoreProcess) -> None:
    # Servers drop clients that ping more often than every 5 minutes, unless they are told otherwise.
    options = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(server.address, options=options) as channel:
        stub = store_service_pb2_grpc.StoreServiceStub(channel)
        stub.GetServerInfo(v1.GetServerInfoRequest())
        channel.subscribe(states.append)
        time.sleep(1.0)
        stub.GetServerInfo(v1.GetServerInfoRequest())
    assert set(states) == {grpc.ChannelConnectivity.READY}

"""What goes wrong on the wire is told with details, and without what concerns the server alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from calls import HERE, context, payload, refused, statistics
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from store_process import Connect, StartServer, StoreProcess

from agentlightning.store.errors import InvalidArgument, NotFound, ResourceExhausted
from agentlightning.store.methods import METHODS, Method
from lightning_store import v1
from lightning_store.v1 import (
    resources_service_pb2_grpc,
    rollout_service_pb2_grpc,
    span_service_pb2_grpc,
    store_service_pb2_grpc,
)

MEBIBYTE = 1 << 20
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Failure:
    """How a call ended."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code = error.code()
        self.message = error.details()
        trailers = dict(error.trailing_metadata())
        self.status = Status.FromString(trailers.get("grpc-status-details-bin", b""))
        self.info: ErrorInfo | None = None
        self.retry: RetryInfo | None = None
        for detail in self.status.details:
            info, retry = ErrorInfo(), RetryInfo()
            if detail.Unpack(info):
                self.info = info
            elif detail.Unpack(retry):
                self.retry = retry

    @property
    def reason(self) -> str:
        """The contract's word, of an error that is complete."""
        assert self.info is not None
        assert self.info.domain == "lightning_store.v1"
        assert self.status.code == self.code.value[0]
        assert self.status.message == self.message
        assert "Traceback" not in str(self.status)
        return self.info.reason


def failure(channel: grpc.Channel, path: str, request: bytes | Message, **settings: object) -> Failure:
    """Make a call that fails, with any bytes."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    streams = {method.path for method in METHODS if method.streams}
    try:
        if path in streams:
            list(channel.unary_stream(path)(data, timeout=10, **settings))
        else:
            channel.unary_unary(path)(data, timeout=10, **settings)
    except grpc.RpcError as error:
        return Failure(error)
    pytest.fail(f"{path} did not fail")


def path_of(rpc: str) -> str:
    """The path of an RPC."""
    (path,) = [method.path for method in METHODS if method.rpc == rpc]
    return path


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpc)
def test_bytes_that_are_no_request_are_refused(channel: grpc.Channel, method: Method) -> None:
    failed = failure(channel, method.path, b"\x0a\xff\xff")
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "MALFORMED_REQUEST"
    assert failed.retry is None


def test_bytes_that_are_no_export_are_refused(channel: grpc.Channel) -> None:
    failed = failure(channel, EXPORT, b"\x0a\xff\xff")
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


@pytest.mark.parametrize("path", ["/lightning_store.v1.RolloutService/Nothing", "/some.other.Service/Nothing"])
def test_a_method_that_there_is_not_is_named(channel: grpc.Channel, path: str) -> None:
    failed = failure(channel, path, b"")
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    assert path in failed.message


@pytest.mark.parametrize(
    ("rpc", "request_", "code", "reason", "metadata"),
    [
        ("GetRollout", v1.GetRolloutRequest(rollout_id="x"), "NOT_FOUND", "ROLLOUT_NOT_FOUND", {"rollout_id": "x"}),
        ("GetWorker", v1.GetWorkerRequest(worker_id="w"), "NOT_FOUND", "WORKER_NOT_FOUND", {"worker_id": "w"}),
        ("GetLatestResources", v1.GetLatestResourcesRequest(), "NOT_FOUND", "NO_RESOURCES", {}),
        ("DeleteRollouts", v1.DeleteRolloutsRequest(), "INVALID_ARGUMENT", "SELECTOR_REQUIRED", {}),
        ("WatchRollouts", v1.WatchRolloutsRequest(cursor="?"), "INVALID_ARGUMENT", "CURSOR_INVALID", {}),
        (
            "WaitForRollouts",
            v1.WaitForRolloutsRequest(rollout_ids=map(str, range(10_001))),
            "INVALID_ARGUMENT",
            "TOO_MANY_IDS",
            {"field": "rollout_ids"},
        ),
        (
            "UpdateWorker",
            v1.UpdateWorkerRequest(worker_id="a b"),
            "INVALID_ARGUMENT",
            "INVALID_ID",
            {"field": "worker_id"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_say_what_programs_need(
    channel: grpc.Channel, rpc: str, request_: Message, code: str, reason: str, metadata: dict[str, str]
) -> None:
    failed = failure(channel, path_of(rpc), request_)
    assert failed.code is grpc.StatusCode[code]
    assert failed.reason == reason
    assert failed.info is not None
    assert dict(failed.info.metadata) == metadata
    assert failed.retry is None


def test_a_used_id_with_another_body_already_exists(channel: grpc.Channel) -> None:
    stub = resources_service_pb2_grpc.ResourcesServiceStub(channel)
    custom = [v1.NamedResource(name="a", resource=v1.Resource(llm=v1.LLM(endpoint="e", model="m")))]
    stub.AddResources(v1.AddResourcesRequest(resources_id="taken", resources=custom))
    failed = failure(channel, path_of("AddResources"), v1.AddResourcesRequest(resources_id="taken"))
    assert (failed.code, failed.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCES_EXIST")
    request = v1.UpdateResourcesRequest(resources_id="taken", expected_version=7)
    failed = failure(channel, path_of("UpdateResources"), request)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
    assert failed.info is not None
    assert failed.info.metadata["version"] == "1"
    assert failed.retry is None


@pytest.mark.parametrize(
    "rollout_id", ["x" * 100_000, "x" * 5000, "ü" * 2000, "\U0001f600" * 500, "a\0b\r\nc", "%25"], ids=len
)
def test_whatever_an_id_holds_the_error_arrives(channel: grpc.Channel, rollout_id: str) -> None:
    failed = failure(channel, path_of("GetRollout"), v1.GetRolloutRequest(rollout_id=rollout_id))
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "ROLLOUT_NOT_FOUND")
    assert failed.message.startswith(f"Rollout {rollout_id[:20]}")


def test_reading_an_unknown_experiment_is_not_found(channel: grpc.Channel) -> None:
    metadata = [("agl-experiment", "nowhere")]
    for rpc in ("ListRollouts", "GetStatistics", "WatchRollouts", "WatchLatestResources", "DequeueRollouts"):
        failed = failure(channel, path_of(rpc), b"", metadata=metadata)
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "EXPERIMENT_NOT_FOUND")
        assert failed.info is not None
        assert dict(failed.info.metadata) == {"experiment": "nowhere"}
    listed = store_service_pb2_grpc.StoreServiceStub(channel).ListExperiments(v1.ListExperimentsRequest())
    assert [experiment.name for experiment in listed.experiments] == ["default"]


def test_an_experiment_with_a_bad_name_is_never_made(channel: grpc.Channel) -> None:
    failed = failure(channel, path_of("EnqueueRollouts"), b"", metadata=[("agl-experiment", "a b")])
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID")


async def test_our_client_reads_the_same_words(server: StoreProcess, connect_to: Connect) -> None:
    api = connect_to(server.address)
    with refused(NotFound, "ROLLOUT_NOT_FOUND") as caught:
        await api.get_rollout(HERE, v1.GetRolloutRequest(rollout_id="x"))
    assert caught.value.message == "Rollout x not found"
    assert caught.value.metadata == {"rollout_id": "x"}
    with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
        await statistics(api, "nowhere")
    with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
        await anext(api.watch_rollouts(context("nowhere"), v1.WatchRolloutsRequest()))
    with refused(InvalidArgument, "CURSOR_INVALID"):
        await anext(api.watch_rollouts(HERE, v1.WatchRolloutsRequest(cursor="?")))


@pytest.fixture(scope="module")
def small() -> Iterator[StoreProcess]:
    """A server that takes small messages, and few spans."""
    process = StoreProcess(f"memory://?max_bytes={4 * MEBIBYTE}", options=["--max-message-bytes", str(MEBIBYTE)])
    process.start()
    yield process
    process.kill()


def big_rollout(size: int) -> v1.EnqueueRolloutsRequest:
    """A request of about so many bytes."""
    return v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="big", input=payload("x" * size))])


def test_a_message_above_the_limit_is_refused(small: StoreProcess) -> None:
    with grpc.insecure_channel(small.address) as channel:
        failed = failure(channel, path_of("EnqueueRollouts"), big_rollout(2 * MEBIBYTE))
        assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MEBIBYTE) in failed.message
        assert failed.retry is None
        stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        assert len(stub.EnqueueRollouts(big_rollout(MEBIBYTE // 2)).rollouts) == 1


def test_compression_does_not_smuggle_a_message_in(small: StoreProcess) -> None:
    with grpc.insecure_channel(small.address) as channel:
        failed = failure(
            channel, path_of("EnqueueRollouts"), big_rollout(20 * MEBIBYTE), compression=grpc.Compression.Gzip
        )
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_our_client_tells_a_message_above_the_limit_at_once(small: StoreProcess, connect_to: Connect) -> None:
    api = connect_to(small.address)
    assert (await api.get_server_info(HERE, v1.GetServerInfoRequest())).max_message_bytes == MEBIBYTE
    with refused(ResourceExhausted, "MESSAGE_TOO_LARGE") as caught:
        await api.enqueue_rollouts(HERE, big_rollout(2 * MEBIBYTE))
    assert caught.value.retry_after is None
    assert "EnqueueRollouts: a message is too large for the store" in caught.value.message
    assert str(MEBIBYTE) in caught.value.message


async def test_our_client_never_sends_what_no_server_takes(server: StoreProcess, connect_to: Connect) -> None:
    api = connect_to(server.address)
    with refused(InvalidArgument, "MESSAGE_TOO_LARGE") as caught:
        await api.enqueue_rollouts(HERE, big_rollout(65 * MEBIBYTE))
    assert "Split it" in caught.value.message


def spans_of(attempt: v1.Attempt, size: int) -> v1.AddSpansRequest:
    """A request to store a span of about so many bytes."""
    body = v1.KeyValue(key="body", value=v1.AnyValue(bytes_value=bytes(size)))
    span = v1.Span(rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, attributes=[body])
    return v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[span])])])


def test_a_store_full_of_spans_says_when_to_try_again(small: StoreProcess) -> None:
    with grpc.insecure_channel(small.address) as channel:
        rollouts = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        spans = span_service_pb2_grpc.SpanServiceStub(channel)
        started = rollouts.StartRollout(v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id="started")))
        request = spans_of(started.rollout.latest_attempt, MEBIBYTE // 2)
        for _ in range(5):
            spans.AddSpans(request)
        failed = failure(channel, path_of("AddSpans"), request)
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SPAN_MEMORY_FULL")
        assert failed.retry is not None
        assert failed.retry.retry_delay.ToSeconds() > 0
        rollouts.UpdateRollout(v1.UpdateRolloutRequest(rollout_id="started", status=v1.ROLLOUT_STATUS_SUCCEEDED))
        assert len(spans.AddSpans(request).sequence_ids) == 1  # those of a finished rollout make room


def test_a_full_store_says_so_and_lives_on(start_server: StartServer) -> None:
    server = start_server(f"memory://?max_bytes={4 * MEBIBYTE}")
    with grpc.insecure_channel(server.address) as channel:
        failed = failure(channel, path_of("EnqueueRollouts"), big_rollout(5 * MEBIBYTE))
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")
        assert failed.retry is None  # to try again would not help
        stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        assert len(stub.ListRollouts(v1.ListRolloutsRequest()).rollouts) == 0
        assert len(stub.EnqueueRollouts(big_rollout(MEBIBYTE)).rollouts) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("UPDATE rollouts SET config = x'ff'", "INTERNAL"),
        ("DROP TABLE bodies", "STORAGE_FAILED"),
    ],
)
def test_how_the_server_failed_stands_in_its_log_only(
    tmp_path: Path, start_server: StartServer, spoil: str, reason: str
) -> None:
    log, path = tmp_path / "log", tmp_path / "store.db"
    server = start_server(f"sqlite:///{path}", log=log)
    with grpc.insecure_channel(server.address) as channel:
        stub = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        stub.EnqueueRollouts(v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="a")]))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(spoil)
        failed = failure(channel, path_of("GetRollout"), v1.GetRolloutRequest(rollout_id="a"))
        assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, reason)
        assert failed.retry is None
        assert ".py" not in str(failed.status)
        assert ".py" in log.read_text()
        assert len(stub.DequeueRollouts(v1.DequeueRolloutsRequest()).claims) == 0

"""The gRPC server: a `StoreApi` on a port."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any, NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agentlightning.store.engine.engine import Engine
from agentlightning.store.forks import use_grpc
from agentlightning.store.methods import SERVICES
from agentlightning.store.server import otlp
from agentlightning.store.server.admission import MOST_PENDING_BYTES, Admission
from agentlightning.store.server.dismissal import Dismissal
from agentlightning.store.server.servicers import LongCalls, UnknownMethods, handlers

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a host name or address to listen on."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_others(host: str, *, insecure: bool) -> None:
    """Check that only this machine can reach a host to listen on, unless others are wanted.

    Raises:
        ValueError: Others could reach it.
    """
    if not insecure and not is_loopback(host):
        raise ValueError(
            f"Refusing to listen on {host}: others could reach it, and the store has no TLS and asks nobody who he "
            "is. Listen on 127.0.0.1, or say --insecure (insecure=True) if the network is trusted."
        )


class _Running(NamedTuple):
    """What there is of a server while it listens; none of it can be used a second time."""

    server: grpc.aio.Server
    health: Any
    long_calls: LongCalls
    dismissal: Dismissal


class StoreServer:
    """Serves an engine over gRPC, with OTLP, health and reflection on the same port. Belongs to one event loop.

    Args:
        engine: What to serve; it is not closed with the server.
        host: Host name or address to listen on.
        port: Port to listen on; 0 takes a free one.
        insecure: True allows a host that others can reach, though nothing is encrypted and nobody is asked who he is.
        max_message_bytes: Largest message to accept.
        max_pending_bytes: Bytes of requests to work on at once; those that are too much are refused for the moment.

    Raises:
        ValueError: The host can be reached by others and `insecure` is not set.
    """

    def __init__(
        self,
        engine: Engine,
        host: str = "127.0.0.1",
        port: int = 4747,
        *,
        insecure: bool = False,
        max_message_bytes: int | None = None,
        max_pending_bytes: int = MOST_PENDING_BYTES,
    ) -> None:
        refuse_others(host, insecure=insecure)
        self.host = host
        self.port = port
        self._max_pending_bytes = max_pending_bytes
        self._engine = engine
        if max_message_bytes is not None:
            engine.max_message_bytes = max_message_bytes
        self._running: _Running | None = None

    @property
    def address(self) -> str:
        """The address that clients connect to."""
        return f"[{self.host}]:{self.port}" if ":" in self.host and "[" not in self.host else f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be listened on.
            ForkedError: This process was forked from one that had used gRPC.
        """
        use_grpc()
        long_calls = LongCalls()
        dismissal = Dismissal()
        servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
                ("grpc.max_receive_message_length", self._engine.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 0),
            ]
        )
        admission = Admission(self._max_pending_bytes)
        server.add_generic_rpc_handlers(
            [*handlers(self._engine, long_calls, dismissal, admission), otlp.handler(self._engine, admission)]
        )
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflection.enable_server_reflection(
            [*SERVICES, otlp.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
        server.add_generic_rpc_handlers([UnknownMethods()])
        try:
            bound = server.add_insecure_port(self.address)
        except RuntimeError:
            bound = 0
        if not bound:
            await server.stop(None)
            raise OSError(
                f"Cannot listen on {self.address}: the port is in use, or the address is not of this machine."
            )
        self.port = bound
        await server.start()
        self._running = _Running(server, servicer, long_calls, dismissal)
        for service in ("", *SERVICES, otlp.SERVICE):
            await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    def dismiss_workers(self, *, cancel: bool) -> None:
        """Tell all workers, those that come later too, to finish what they hold and leave, until the server stops.

        Args:
            cancel: Whether they are to stop what they hold, which they hear with their next heartbeat.
        """
        if self._running is not None:
            self._running.dismissal.begin(cancel=cancel)

    async def stop(self, grace: float = 5.0) -> None:
        """End the waits of all clients, finish the other calls, and listen no more.

        Args:
            grace: Longest time for calls to finish, in seconds; those that take longer are cut off.
        """
        running, self._running = self._running, None
        if running is None:
            return
        await running.health.enter_graceful_shutdown()
        running.long_calls.end()
        await running.server.stop(grace)

"""Where a gateway runs: in a thread of this process, or in processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from agentlightning.gateway.app import create_app
from agentlightning.gateway.core import Gateway
from agentlightning.gateway.settings import HTTP_SETTINGS, GatewaySettings, GatewayState
from agentlightning.gateway.workers import ProcessServing
from agentlightning.store.base import LightningStore
from agentlightning.store.threading import LightningStoreThreaded
from agentlightning.utils.http_serving import HttpServer


class Serving(Protocol):
    """The processes or threads of a gateway."""

    @property
    def port(self) -> int:
        """The port; with 0 known once started."""

    async def start(self, state: Callable[[], GatewayState], store: LightningStore) -> None:
        """Returns when calls are answered.

        Args:
            state: Returns how the gateway stands.
            store: Where spans go.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: A process did not start.
            ValueError: The store cannot be reached from where it runs.
        """

    async def stop(self) -> None:
        """Finishes the calls at work, for up to 5 s, and listens no more."""

    def submit(self, command: str, *arguments: Any) -> list[Future[Any]]:
        """Has each gateway carry a command out; see `Gateway.submit`."""


def serving(settings: GatewaySettings, host: str, port: int, processes: int) -> Serving:
    """Returns what serves a gateway.

    Args:
        settings: The settings.
        host: Host to listen on.
        port: Port to listen on, 0 for a free one.
        processes: In how many processes of their own; 0 for a thread of this one.
    """
    return ProcessServing(settings, host, port, processes) if processes else ThreadServing(settings, host, port)


class ThreadServing:
    """One gateway in a thread of this process.

    Args:
        settings: The settings.
        host: Host to listen on.
        port: Port to listen on, 0 for a free one.
    """

    def __init__(self, settings: GatewaySettings, host: str, port: int) -> None:
        self._settings = settings
        self._host = host
        self._port = port
        self._gateway: Gateway | None = None
        self._server: HttpServer | None = None

    @property
    def port(self) -> int:
        """The port; with 0 known once started."""
        return self._server.port if self._server is not None else self._port

    async def start(self, state: Callable[[], GatewayState], store: LightningStore) -> None:
        """Returns when calls are answered.

        Raises:
            OSError: The address cannot be listened on.
        """
        if not store.capabilities.get("thread_safe"):
            store = LightningStoreThreaded(store)
        self._gateway = Gateway(self._settings, state(), store)
        server = HttpServer(
            create_app(self._gateway),
            self._host,
            self._port,
            name="agentlightning-gateway",
            before_shutdown=self._gateway.end_waits,
            **HTTP_SETTINGS,
        )
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Finishes the calls at work, for up to 5 s, and listens no more."""
        if self._server is not None:
            await self._server.stop()

    def submit(self, command: str, *arguments: Any) -> list[Future[Any]]:
        """Has each gateway carry a command out; see `Gateway.submit`."""
        assert self._gateway is not None  # commands come after the start
        return [self._gateway.submit(command, *arguments)]

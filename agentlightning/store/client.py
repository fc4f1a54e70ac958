"""`LightningStoreClient`: the store of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.store.api import DEFAULT_EXPERIMENT
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.face import StoreFace
from agentlightning.store.remote.api import connect
from agentlightning.store.remote.retries import RetryPolicy


class LightningStoreClient(StoreFace):
    """A store that lives in a server. Safe to use from several threads and event loops, and to send to other processes.

    Nothing is connected before the first call. Calls are sent again when the server cannot be reached, where that
    cannot do their work twice; see `agentlightning.store.remote.retries.RetryPolicy`.

    Args:
        server_address: `host:port`, `grpc://host:port`, or `http://host:port` as clients of older releases wrote it;
            several with commas between them when several servers serve one database.
        retry_delays: Seconds between tries, as many as there are; None tries for 60 s with growing delays.
        health_retry_delays: Accepted as in 0.3.0; gRPC watches connections itself.
        request_timeout: Seconds to wait for an answer, on top of what a call itself asks to wait.
        connection_timeout: Seconds to try for when the server has never answered.
        experiment: The experiment to work on.

    Raises:
        ValueError: The address is none.
    """

    def __init__(
        self,
        server_address: str,
        *,
        retry_delays: Sequence[float] | None = None,
        health_retry_delays: Sequence[float] | None = None,
        request_timeout: float = 30.0,
        connection_timeout: float = 5.0,
        experiment: str = DEFAULT_EXPERIMENT,
    ) -> None:
        self._settings: dict[str, Any] = {
            "retry_delays": retry_delays,
            "request_timeout": request_timeout,
            "connection_timeout": connection_timeout,
            "experiment": experiment,
        }
        self.server_address = server_address
        self._remote = connect(
            server_address,
            request_timeout=request_timeout,
            retries=RetryPolicy(connect_seconds=connection_timeout, delays=retry_delays),
        )
        super().__init__(self._remote, experiment=experiment)

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=True)

    def otlp_traces_endpoint(self) -> str:
        """Return the address that takes spans over OTLP/gRPC, as exporters want it."""
        return f"http://{self._remote.target}"

    async def close(self) -> None:
        """Close the connections; a later call opens them again."""
        await self._remote.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _connect_again, (type(self), self.server_address, self._settings)


def _connect_again(
    kind: type[LightningStoreClient], server_address: str, settings: dict[str, Any]
) -> LightningStoreClient:
    return kind(server_address, **settings)

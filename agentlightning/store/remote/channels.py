"""gRPC channels: one for each event loop, and none across a fork."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc.aio

from agentlightning.store.forks import use_grpc

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),  # http_proxy would divert even calls to this very machine
)
"""Options of every channel to a store."""


class _PollerNoise(logging.Filter):
    """Drops what asyncio logs when several event loops of a process use gRPC at once.

    They share one socket that tells of finished calls; the loop that comes second to read it finds it empty, which is
    no fault. Older releases of grpcio (seen with 1.71 and 1.76, gone with 1.82) let the BlockingIOError out. And the
    loop that reads may find a cancelled call of a loop that has ended since, which nobody waits for any more.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        harmless = isinstance(error, BlockingIOError) or str(error) == "Event loop is closed"
        return not (harmless and "PollerCompletionQueue" in record.getMessage())


logging.getLogger("asyncio").addFilter(_PollerNoise())


def parse_address(address: str) -> str:
    """Return `host:port` for an address as users write it.

    Args:
        address: `host:port`, `grpc://host:port`, or `http://host:port` as clients of the JSON store wrote it.

    Raises:
        ValueError: It is none of these.
    """
    parts = urlsplit(address if "://" in address else f"grpc://{address}")
    fault = None
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _fault(address, str(error)) from error
    if parts.scheme not in ("grpc", "http"):
        fault = f"{parts.scheme}:// is not served"
    elif not host or port is None:
        fault = "it must name a host and a port"
    elif parts.path.strip("/") or parts.query or parts.username:
        fault = "nothing may follow the port"
    if fault is not None:
        raise _fault(address, fault)
    return f"[{host}]:{port}" if host is not None and ":" in host else f"{host}:{port}"


def parse_addresses(addresses: str) -> list[str]:
    """Return `host:port` for each of some addresses, which commas separate.

    Raises:
        ValueError: One of them is none.
    """
    return list(dict.fromkeys(parse_address(address.strip()) for address in addresses.split(",")))


def _fault(address: str, fault: str) -> ValueError:
    return ValueError(f"Cannot connect to {address!r}: {fault}; write host:port, grpc://host:port or http://host:port.")


@dataclass
class OpenChannel:
    """A channel, and the callables that were made of it."""

    target: str
    channel: grpc.aio.Channel
    callables: dict[str, Any] = field(default_factory=dict)
    """By the names of the methods of `StoreApi`."""


class Channels:
    """The channels to a store: each event loop has its own, made at its first call.

    A store may have several servers. One is worked with until it fails, the first one being left to chance, so that
    many clients spread over all of them.

    Args:
        targets: `host:port` of each server.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = targets
        self._current = random.randrange(len(targets))
        self._lock = threading.Lock()
        # A channel holds its loop, so those of loops that have ended are let go when another is made.
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[str, OpenChannel]] = {}

    @property
    def target(self) -> str:
        """The server that is worked with."""
        return self.targets[self._current]

    def leave(self, target: str) -> None:
        """Work with the next server from now on, unless another call has left this one already."""
        with self._lock:
            if target == self.target:
                self._current = (self._current + 1) % len(self.targets)

    def get(self) -> OpenChannel:
        """Return the channel of the running event loop to the server that is worked with.

        Raises:
            ForkedError: This process was forked from one that had used gRPC.
        """
        use_grpc()
        loop = asyncio.get_running_loop()
        target = self.target
        found = self._by_loop.get(loop, {}).get(target)
        if found is None:
            found = OpenChannel(target, grpc.aio.insecure_channel(target, options=OPTIONS))
            with self._lock:
                for ended in [other for other in self._by_loop if other.is_closed()]:
                    del self._by_loop[ended]
                self._by_loop.setdefault(loop, {})[target] = found
        return found

    async def close(self) -> None:
        """Close the channels of all loops; later calls open new ones."""
        with self._lock:
            channels = [(loop, one.channel) for loop, found in self._by_loop.items() for one in found.values()]
            self._by_loop.clear()
        here = asyncio.get_running_loop()
        for loop, channel in channels:
            if loop is here:
                await channel.close(None)
            elif loop.is_running():
                with contextlib.suppress(RuntimeError):  # the loop has ended since
                    asyncio.run_coroutine_threadsafe(channel.close(None), loop)

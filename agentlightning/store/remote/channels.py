"""gRPC channels: one for each event loop, and none across a fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from urllib.parse import urlsplit

import grpc.aio

from agentlightning.store.errors import InvalidArgument, StoreError

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


class ForkedError(RuntimeError):
    """A process was forked while gRPC was in use, and then called a store: gRPC would hang."""


_used_in: int | None = None
"""The process that has made a channel."""
_forked_after_use = False


def _after_fork() -> None:
    global _forked_after_use
    _forked_after_use = _used_in is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def parse_address(address: str) -> str:
    """Return `host:port` for an address as users write it.

    Args:
        address: `host:port`, `grpc://host:port`, or `http://host:port` as clients of the JSON store wrote it.

    Raises:
        InvalidArgument: It is none of these.
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


def _fault(address: str, fault: str) -> StoreError:
    return InvalidArgument(
        f"Cannot connect to {address!r}: {fault}; write host:port, grpc://host:port or http://host:port.",
        reason="INVALID_ADDRESS",
    )


class Channels:
    """The channels to one server: each event loop has its own, made at its first call.

    Args:
        target: `host:port`.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, grpc.aio.Channel] = (
            weakref.WeakKeyDictionary()
        )

    def get(self) -> grpc.aio.Channel:
        """Return the channel of the running event loop.

        Raises:
            ForkedError: This process was forked from one that had used gRPC.
        """
        if _forked_after_use:
            raise ForkedError(
                "This process was forked from one that already talked to a store; gRPC does not survive that. Start "
                "children with multiprocessing.get_context('spawn')."
            )
        loop = asyncio.get_running_loop()
        channel = self._by_loop.get(loop)
        if channel is None:
            global _used_in
            _used_in = os.getpid()
            channel = grpc.aio.insecure_channel(self.target, options=OPTIONS)
            with self._lock:
                self._by_loop[loop] = channel
        return channel

    async def close(self) -> None:
        """Close the channels of all loops; later calls open new ones."""
        with self._lock:
            channels = list(self._by_loop.items())
            self._by_loop.clear()
        here = asyncio.get_running_loop()
        for loop, channel in channels:
            if loop is here:
                await channel.close(None)
            elif loop.is_running():
                with contextlib.suppress(RuntimeError):  # the loop has ended since
                    asyncio.run_coroutine_threadsafe(channel.close(None), loop)

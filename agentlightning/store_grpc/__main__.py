"""Runs the store server until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.retention import Retention
from agentlightning.store.errors import StoreError
from agentlightning.store.opening import open_engine
from agentlightning.store.server.server import StoreServer, refuse_others
from agentlightning.store.storage.urls import without_password
from agentlightning.store_grpc import options as command_line
from agentlightning.utils.loops import run
from agentlightning.utils.stopping import stop_signal

if TYPE_CHECKING:
    from agentlightning.rest.serving import RestServer


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m agentlightning.store_grpc") -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        argv: The command line; that of this process if None.
        prog: What calls the server, for messages about options.

    Returns:
        The exit code: 0 after a clean end, 1 when the server could not start. Wrong options exit with 2.
    """
    options = command_line.parse(argv, prog=prog)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return run(_serve(options))
    except (ImportError, StoreError, OSError, ValueError) as error:
        print(f"agentlightning store: {error}", file=sys.stderr)
        return 1


async def _serve(options: argparse.Namespace) -> int:
    stopping = stop_signal()
    refuse_others(options.host, insecure=options.insecure)  # before a database is made
    retention = Retention(options.keep_finished, options.keep_finished_count)
    engine = open_engine(options.store, options.durability, retention=retention)
    try:
        server = StoreServer(
            engine,
            options.host,
            options.port,
            insecure=options.insecure,
            max_message_bytes=options.max_message_bytes,
            max_pending_bytes=options.max_pending_bytes,
        )
        rest = None if options.rest_port is None else _rest_server(engine, options)
        async with contextlib.AsyncExitStack() as running:
            await server.start()
            running.push_async_callback(server.stop, options.grace)
            if rest is not None:
                await rest.start()
                running.push_async_callback(rest.stop)
            gc.collect()
            gc.freeze()  # what start-up made stays; the collector need not walk it again and again
            print(
                f"agentlightning store listening on {server.address} store={without_password(options.store)} "
                f"store_id={engine.storage.store_id}",
                flush=True,
            )
            if rest is not None:
                print(f"agentlightning rest listening on {rest.url}", flush=True)
            await stopping.wait()
    finally:
        engine.close()
    return 0


def _rest_server(engine: Engine, options: argparse.Namespace) -> RestServer:
    from agentlightning.rest import require_packages

    require_packages()
    from agentlightning.rest.app import create_app
    from agentlightning.rest.serving import RestServer
    from agentlightning.store.face import StoreFace

    return RestServer(create_app(StoreFace(engine)), options.host, options.rest_port, insecure=options.insecure)


if __name__ == "__main__":
    sys.exit(main())

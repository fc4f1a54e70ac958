"""The REST API in front of a store server: `python -m agentlightning.rest --store HOST:PORT`."""

from __future__ import annotations

import argparse
import logging
import sys

from agentlightning.rest import require_packages
from agentlightning.store.api import DEFAULT_EXPERIMENT
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.errors import StoreError
from agentlightning.utils.loops import run
from agentlightning.utils.stopping import stop_signal

# Clients give up after 10 s, and whoever has gone away should not be handed a task.
_ANSWER_SECONDS = 8.0
_RETRY_DELAYS = (0.2, 0.5)


def main() -> int:
    """Serves until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a clean end, 1 when the server could not start. Wrong options exit with 2.
    """
    options = _parse()
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        require_packages()
        return run(_serve(options))
    except (ImportError, OSError, StoreError, ValueError) as error:
        print(f"agentlightning rest: {error}", file=sys.stderr)
        return 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m agentlightning.rest",
        description="Serve a store server over HTTP: its contract, the REST APIs of older releases, and OTLP.",
    )
    parser.add_argument("--store", required=True, metavar="HOST:PORT", help="address of the store server")
    parser.add_argument("--experiment", default=DEFAULT_EXPERIMENT, help="experiment to serve (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="host to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--task-timeout-seconds",
        type=float,
        default=300.0,
        help="time after which a task that nobody reported on is handed out again (default: %(default)s)",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin whose pages may call the server from a browser, such as http://localhost:3000, or * for any; "
        "can be given several times (default: none)",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen on an address that others can reach, without TLS and without asking who calls",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="what to log on stderr"
    )
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> int:
    from agentlightning.rest.app import create_app
    from agentlightning.rest.serving import RestServer

    stopping = stop_signal()
    store = LightningStoreClient(
        options.store, retry_delays=_RETRY_DELAYS, request_timeout=_ANSWER_SECONDS, experiment=options.experiment
    )
    app = create_app(store, task_timeout_seconds=options.task_timeout_seconds, cors_origins=options.cors_origin)
    server = RestServer(app, options.host, options.port, insecure=options.insecure)
    await server.start()
    print(f"agentlightning rest listening on {server.url} store={options.store}", flush=True)
    await stopping.wait()
    await server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

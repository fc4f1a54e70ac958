"""`agl agentops`: takes the spans of agents that use the AgentOps SDK, and puts them into a store."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentlightning.cli.daemon import pid_in, start_detached, state_folder
from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.parsing import ADDRESS_VARIABLE, EXPERIMENT_VARIABLE, default_experiment

if TYPE_CHECKING:
    from agentlightning.store.client import LightningStoreClient

logger = logging.getLogger(__name__)

_PROG: Final = "agl agentops"
# Exporters give up after 10 s, and try again when they are told that the store is away.
_ANSWER_SECONDS: Final = 8.0
_RETRY_DELAYS: Final = (0.2, 0.5)
_EXAMPLES: Final = """\
Examples:
  agl agentops --store 127.0.0.1:4747 --daemon
  kill $(cat ~/.local/state/agentlightning/agentops-8002.pid)

An agent finds it by its environment; the path says which attempt its spans belong to:
  export AGENTOPS_API_KEY=any
  export AGENTOPS_API_ENDPOINT=http://127.0.0.1:8002
  export AGENTOPS_EXPORTER_ENDPOINT=http://127.0.0.1:8002/rollout/ro-.../attempt/at-.../v1/traces

Exit codes: 0 stopped, 1 it could not start, 2 wrong options, 4 a package is not installed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; with `--daemon`, returns when another process does.

    Args:
        argv: The words after `agl agentops`.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parse(words)
    try:
        from agentlightning.rest import require_packages

        require_packages()
    except ImportError as error:
        print(f"{_PROG}: {error}", file=sys.stderr)
        return ExitCode.NOT_INSTALLED
    try:
        if options.daemon:
            return _start_daemon(words, options)
        logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        return asyncio.run(_serve(options))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{_PROG}: {str(error).removeprefix(f'{_PROG}: ')}", file=sys.stderr)
        return ExitCode.ERROR


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Take what the AgentOps SDK records (0.4.21 and later), in place of AgentOps' own servers. Every "
        "API key will do. Spans go into a store if one is named, and are dropped else.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=8002, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="host to listen on (default: %(default)s)")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen on an address that others can reach, without TLS and without asking who calls",
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    store = parser.add_argument_group("where spans go")
    store.add_argument(
        "--store",
        metavar="HOST:PORT",
        default=os.environ.get(ADDRESS_VARIABLE),
        help=f"address of the store server (environment: {ADDRESS_VARIABLE})",
    )
    store.add_argument(
        "--experiment",
        metavar="NAME",
        default=default_experiment(),
        help=f"its experiment (default: %(default)s; environment: {EXPERIMENT_VARIABLE})",
    )
    store.add_argument("--rollout", metavar="ID", help="rollout of spans that do not name one")
    store.add_argument("--attempt", metavar="ID", help="attempt of spans that do not name one")
    daemon = parser.add_argument_group("in the background")
    daemon.add_argument("--daemon", action="store_true", help="go on in the background; says where log and pid are")
    daemon.add_argument("--log-file", type=Path, metavar="FILE", help="log of the daemon")
    daemon.add_argument("--pid-file", type=Path, metavar="FILE", help="file that holds the process id while it serves")
    options = parser.parse_args(words)
    if (options.rollout is None) != (options.attempt is None):
        parser.error("--rollout and --attempt go together")
    return options


def _start_daemon(words: Sequence[str], options: argparse.Namespace) -> int:
    name = state_folder() / f"agentops-{options.port}"
    log: Path = (options.log_file or name.with_suffix(".log")).absolute()
    pid_file: Path = (options.pid_file or name.with_suffix(".pid")).absolute()
    own = [word for word in words if word != "--daemon"]
    command = [sys.executable, "-m", "agentlightning.cli", "agentops", *own, "--pid-file", str(pid_file)]
    pid, line = start_detached(command, log)
    print(f"{line} pid={pid} pid_file={pid_file} log={log}")
    return ExitCode.OK


async def _serve(options: argparse.Namespace) -> int:
    from agentlightning.cli.agentops_app import create_collector
    from agentlightning.rest.serving import RestServer
    from agentlightning.utils.stopping import stop_signal

    stopping = stop_signal()
    store = _store(options)
    place = None if options.rollout is None else (options.rollout, options.attempt)
    server = RestServer(create_collector(store, place), options.host, options.port, insecure=options.insecure)
    await server.start()
    try:
        with pid_in(options.pid_file):
            ready = f"{_PROG} listening on {server.url} store={options.store or 'none'}"
            logger.info(ready)
            print(ready, flush=True)
            await stopping.wait()
    finally:
        await server.stop()
        if store is not None:
            await store.close()
    return ExitCode.OK


def _store(options: argparse.Namespace) -> LightningStoreClient | None:
    from agentlightning.store.client import LightningStoreClient

    if options.store is None:
        return None
    return LightningStoreClient(
        options.store, retry_delays=_RETRY_DELAYS, request_timeout=_ANSWER_SECONDS, experiment=options.experiment
    )

"""How commands reach their store, and what they say when it cannot do what they ask."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Final

from agentlightning.cli.exit_codes import ExitCode
from agentlightning.cli.parsing import ADDRESS_VARIABLE
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.errors import StoreError

# Somebody waits for the answer, who may have mistyped the address.
_CONNECT_SECONDS: Final = 2.0


def run_connected(options: argparse.Namespace) -> int:
    """Runs what a command does with its store, and tells what went wrong.

    Args:
        options: As a parser of `agentlightning.cli.parsing` makes them.

    Returns:
        The exit code.
    """
    try:
        return asyncio.run(_connected(options))
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError, StoreError, ValueError) as error:
        tell(options, f"{error}{_hint(error, options)}")
        return ExitCode.ERROR


def tell(options: argparse.Namespace, message: str) -> None:
    """Says something to the person at the terminal, beside the output."""
    print(f"{options.prog}: {message}", file=sys.stderr)


async def _connected(options: argparse.Namespace) -> int:
    store = LightningStoreClient(options.store, experiment=options.experiment, connection_timeout=_CONNECT_SECONDS)
    try:
        code: int = await options.work(store, options)
        return code
    finally:
        await store.close()


def _hint(error: Exception, options: argparse.Namespace) -> str:
    reason = getattr(error, "reason", None)
    if reason == "SERVER_UNREACHABLE":
        return f"\nStart a store with `agl store`, or name yours: --store HOST:PORT or {ADDRESS_VARIABLE}."
    if reason == "EXPERIMENT_NOT_FOUND":
        return f"\n`agl experiments list --store {options.store}` shows those that there are."
    return ""

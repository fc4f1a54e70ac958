"""What the programs of examples need to start: a store server, and options that are numbers."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY = "agentlightning store listening on "
"""How the server's first line begins; its address follows."""


def positive(text: str) -> int:
    """Returns the number that an option gives."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


@contextmanager
def store_server(database: Path) -> Iterator[str]:
    """Runs a store server as a process of its own; yields its address.

    Raises:
        RuntimeError: The server did not start.
    """
    log_file = database.with_suffix(".log")
    with log_file.open("w", encoding="utf-8") as log:
        # In a session of its own Ctrl+C does not reach it: it must be there until the runners have left.
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "agentlightning.store_grpc", "--host", "127.0.0.1", "--port", "0"),
                *("--store", f"sqlite:///{database}"),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line.startswith(READY):
            raise RuntimeError(f"the store server did not start:\n{log_file.read_text(encoding='utf-8')}")
        yield line.removeprefix(READY).split()[0]
    finally:
        server.terminate()
        server.wait()

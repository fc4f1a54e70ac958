"""Commands that serve, in processes of their own."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store_process import environment


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs a command that serves; it must end well when it is told to."""
    with (
        log.open("a") as stderr,
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()


def said(process: subprocess.Popen[str], pattern: str) -> str:
    """Returns what the next line of output says at the place that a pattern marks."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(pattern, line.rstrip("\n"))
    assert found is not None, line
    return found[1]

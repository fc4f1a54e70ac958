"""Commands of other toolchains."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None, *, timeout: float = 280.0
) -> str:
    """Run a command that must succeed, and return what it printed on both streams."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-20_000:]}"
    return done.stdout

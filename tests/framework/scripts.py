"""Runs code in a process of its own, for what would change this one for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_script(code: str, folder: Path | None = None, **environment: str) -> str:
    """Runs `code`, for which warnings are errors and this folder's modules can be imported.

    Args:
        code: What to run.
        folder: Where to run it; here unless given.
        **environment: Variables that it finds besides ours.

    Returns:
        What it printed and logged.
    """
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout

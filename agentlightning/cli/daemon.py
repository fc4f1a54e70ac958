"""Servers that go on when their terminal is closed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path


def state_folder() -> Path:
    """Returns the folder where this user's servers keep their logs and process ids."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "agentlightning"


def start_detached(command: Sequence[str], log: Path) -> tuple[int, str]:
    """Starts a server in a session of its own, and returns when it says that it is ready.

    Args:
        command: Prints one line to stdout when it is ready, and nothing else.
        log: File that its stderr is added to.

    Returns:
        Its process id, and the line.

    Raises:
        OSError: The log cannot be written.
        RuntimeError: It ended without being ready; the message is what it said on stderr.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        began = errors.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    assert process.stdout is not None
    with process.stdout as output:
        line = output.readline().decode().rstrip("\n")
    if not line:
        process.wait()
        said = log.read_bytes()[began:].decode(errors="replace").strip()
        raise RuntimeError(said or f"it ended at once, with exit code {process.returncode}")
    process.returncode = 0  # nobody waits for it any more
    return process.pid, line


@contextlib.contextmanager
def pid_in(file: Path | None) -> Iterator[None]:
    """Keeps the id of this process in a file, for as long as it lasts; None keeps it nowhere."""
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}\n"
    file.write_text(own)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text() == own:  # another server may have taken the file over
                file.unlink()

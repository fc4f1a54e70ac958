"""Real processes for tests: a store server, and the question which processes are left."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class StoreProcess:
    """`python -m agentlightning.store_grpc` on a free port."""

    def __init__(self, store: str = "memory://", port: int = 0) -> None:
        command = [sys.executable, "-m", "agentlightning.store_grpc", "--host", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), "--store", store], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"listening on (\S+):(\d+)", line)
        assert found, line
        self.address = f"{found[1]}:{found[2]}"
        self.port = int(found[2])

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        """Ends it in order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._reap()

    def _reap(self) -> None:
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], object], timeout: float = 20) -> None:
    """Waits for a condition to come true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


@contextmanager
def store_process(store: str = "memory://") -> Iterator[StoreProcess]:
    server = StoreProcess(store)
    try:
        yield server
    finally:
        server.stop()


def descendants(pid: int) -> set[int]:
    """Returns the processes below `pid`, however deep."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted and child not in found}
        found |= wanted
    return found


def alive(pids: set[int]) -> set[int]:
    """Returns those that still run; a zombie does not."""
    left = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            left.add(pid)
    return left


def until_gone(pids: set[int], timeout: float) -> set[int]:
    """Waits for processes to end; returns those that have not."""
    deadline = time.monotonic() + timeout
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive(pids)


def runner_processes(pid: int) -> set[int]:
    """Returns the runner processes below `pid`."""
    return {child for child in descendants(pid) if b"spawn_main" in _command(child)}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

"""Store servers in processes of their own."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agentlightning.store.remote.api import RemoteApi

COMMAND = [sys.executable, "-m", "agentlightning.store_grpc"]
READY = re.compile(
    r"^agentlightning store listening on (?P<address>\S+:(?P<port>\d+)) store=(?P<store>\S+) store_id=\w+$"
)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process without what would set options of a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AGL_")} | dict(extra or {})


def run_command(
    *options: str, env: Mapping[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [*COMMAND, *options], env=environment(env), capture_output=True, text=True, timeout=timeout, check=False
    )


class StoreProcess:
    """A server that can be stopped, killed and started again on the same port.

    Args:
        store: URL of the store.
        port: Port to listen on; 0 takes a free one, and that one again at each further start.
        options: Further options.
        env: Environment variables to add.
        log: File that stderr goes to; None shows it to whoever runs the tests.
        says_where: False leaves store and port to the environment variables.
        command: What to run.
    """

    def __init__(
        self,
        store: str = "memory://",
        *,
        port: int = 0,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        says_where: bool = True,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.store = store
        self.port = port
        self.address = ""
        self.ready_line = ""
        self._options = list(options)
        self._env = env
        self._log = log
        self._says_where = says_where
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, within: float = 60.0) -> None:
        """Start it, on the port that it had before if it had one; returns when it says that it is ready.

        That port may have gone to a connection of somebody else meanwhile, and is waited for.
        """
        end = time.monotonic() + within
        while (found := READY.match(self._launch(within))) is None:
            self.kill()
            if not self.address or time.monotonic() > end:
                raise AssertionError(f"the server did not say that it is ready: {self.ready_line!r}")
            time.sleep(0.1)
        self.address, self.port = found["address"], int(found["port"])

    def _launch(self, within: float) -> str:
        """Run it, and return its first line."""
        command = [*self._command, *self._options]
        if self._says_where:
            command += ["--store", self.store, "--port", str(self.port)]
        with open(self._log or os.devnull, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(self._env),
                stdout=subprocess.PIPE,
                stderr=log if self._log is not None else None,
            )
        self.ready_line = self._first_line(within)
        return self.ready_line

    def _first_line(self, within: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        end = time.monotonic() + within
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not data.endswith(b"\n") and selector.select(max(0.0, end - time.monotonic())):
                more = os.read(self._process.stdout.fileno(), 4096)
                if not more:
                    break
                data += more
        return data.decode().rstrip("\n")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True until it has ended."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, within: float = 60.0) -> int:
        """Return its exit code once it has ended."""
        assert self._process is not None
        code = self._process.wait(within)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def stop(self, within: float = 60.0) -> int:
        """Ask it to end, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self) -> None:
        """End it without a chance to do anything more."""
        if self._process is not None:
            self._process.kill()
            self.wait()


StartServer = Callable[..., StoreProcess]
"""Starts a server with the arguments of `StoreProcess`; it is ended with the test."""

Connect = Callable[..., RemoteApi]
"""Connects as `agentlightning.store.remote.api.connect` does; the client is closed with the test."""

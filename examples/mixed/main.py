"""Runners in Python, TypeScript and Go, side by side on one store, work for one algorithm.

`main.py --kill` kills each runner once while it works, and starts another in its place. README.md beside this file says
how to build the runners.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from search import TARGETS, search_round

import agentlightning as agl

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
COMMANDS = {
    "python": [sys.executable, str(HERE / "guess.py")],
    "typescript": ["node", str(REPOSITORY / "clients/typescript/build/examples/guess.js")],
    "go": [str(REPOSITORY / "build/go/guess")],
}
READY = "agentlightning store listening on "
ROUNDS = 4
REPEATS = 8


def main() -> int:
    """Runs the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=f"of the runners: {', '.join(COMMANDS)}")
    parser.add_argument("--kill", action="store_true", help="kill each runner once while it works")
    parser.add_argument("--database", type=Path, help="a new SQLite file; a temporary one unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as children:
        database = options.database or Path(folder) / "store.db"
        address = children.enter_context(store_server(database))
        team = Team(address, children)
        asyncio.run(train(team, options.languages or ["python", "typescript"], kill=options.kill))
    return 0


async def train(team: Team, languages: list[str], *, kill: bool) -> None:
    """Starts the runners, searches, prints who did what, and sends the runners home."""
    store = agl.LightningStoreClient(team.address)
    await asyncio.gather(*(team.hire(store, f"{language}-1") for language in languages))
    best, step = 0.0, 8.0
    for number in range(ROUNDS):
        # The first round is the one in which runners die; it has to last until they have.
        dying: list[Awaitable[None]] = [team.replace(store, name) for name in languages] if kill and not number else []
        seconds = 0.5 if dying else 0.05
        (best, mean), *_ = await asyncio.gather(
            search_round(store, best, step, repeats=REPEATS, seconds=seconds), *dying
        )
        print(f"round {number + 1}: best is {best:g}, which earns {mean:.2f}", flush=True)
        step /= 2
    rollouts = await store.query_rollouts()
    print(f"{len(rollouts)} rollouts on {len(TARGETS)} targets, finished by")
    for name, count in sorted(Counter(rollout.attempt.worker_id for rollout in rollouts).items()):
        print(f"  {name}: {count}")
    await asyncio.gather(*(team.send_home(store, name) for name in team.at_work))
    await store.close()


class Team:
    """The runner processes, by the names that the store has for them: language and number."""

    def __init__(self, address: str, children: ExitStack) -> None:
        self.address = address
        self.at_work: dict[str, subprocess.Popen[bytes]] = {}
        self._children = children

    async def hire(self, store: agl.LightningStore, name: str) -> None:
        """Starts a runner and returns when the store knows it."""
        runner = self.at_work[name] = self._start(name)
        while await store.get_worker_by_id(name) is None:
            if runner.poll() is not None:
                raise RuntimeError(f"{name} ended with exit code {runner.returncode}")
            await asyncio.sleep(0.05)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        language = name.partition("-")[0]
        arguments = ["-address", self.address, "-worker", name] if language == "go" else [self.address, name]
        runner = subprocess.Popen([*COMMANDS[language], *arguments])
        self._children.callback(runner.wait)
        self._children.callback(runner.kill)
        return runner

    async def replace(self, store: agl.LightningStore, language: str) -> None:
        """Kills the first runner of a language as soon as it holds a rollout, and starts the second."""
        name = f"{language}-1"
        busy: list[agl.Worker] = []
        while name not in {worker.worker_id for worker in busy}:
            await asyncio.sleep(0.02)
            busy = list(await store.query_workers(status_in=["busy"]))
        self.at_work.pop(name).kill()
        print(f"killed {name} at work", flush=True)
        await self.hire(store, f"{language}-2")

    async def send_home(self, store: agl.LightningStore, name: str) -> None:
        """Tells a runner to finish what it holds and leave, and waits until it has."""
        await store.update_worker(name, draining=True)
        code = await asyncio.to_thread(self.at_work[name].wait)
        if code != 0:
            raise RuntimeError(f"{name} ended with exit code {code}")


@contextmanager
def store_server(database: Path) -> Iterator[str]:
    """Runs a store server as a process of its own; yields its address."""
    options = ["--port", "0", "--store", f"sqlite:///{database}", "--log-level", "WARNING"]
    server = subprocess.Popen(
        [sys.executable, "-m", "agentlightning.store_grpc", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line.startswith(READY):
            raise RuntimeError("the store server did not start")
        yield line.removeprefix(READY).split()[0]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())

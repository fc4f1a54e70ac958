"""The runner processes of a run, as the process that starts them sees them."""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from agentlightning.execution.runner_process import Crashed, LogSetup, Order, Started, run_runner_process

if TYPE_CHECKING:
    from agentlightning.execution.base import RunnerBundle
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)


@dataclass
class RunnerProcess:
    """One runner process and what became of it."""

    worker_id: int
    """Number of the runner."""
    process: SpawnProcess
    """The process."""
    orders: Connection
    """The parent's end of the connection to it."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Is set when the process has ended."""
    started: bool = False
    """Whether it came as far as running the runner; known when it has ended."""
    error: str | None = None
    """The exception that ended it, if it could still say so."""
    told_to_leave: bool = False
    """Whether it was ordered to leave or killed from here."""

    failed: bool = False
    """Whether it ended by itself and badly."""

    def describe_end(self) -> str:
        """Returns how it ended, in words."""
        code = self.process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {-code} (exit code {code})"
        return f"runner {self.worker_id} (pid {self.process.pid}) ended with {how}" + (
            f": {self.error}" if self.error else "" if self.started else " before it began"
        )


def check_spawnable(bundle: RunnerBundle) -> None:
    """Finds out early what would fail late, and less clearly, in the processes.

    Raises:
        TypeError: The agent, or something that it holds, cannot be sent to another process.
        RuntimeError: This process is itself being spawned: the script lacks a main guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "runner processes import the main script, and this script starts a training when it is imported: "
            'put what it does under `if __name__ == "__main__":`'
        )
    try:
        pickled = pickle.dumps(bundle)
    except Exception as error:
        raise TypeError(
            f"the agent and its runner cannot be sent to runner processes: {error}. Define the agent at the top level "
            "of a module or script (not inside a function, and not as a lambda), and let it open connections, locks "
            "and models when it first needs them"
        ) from error
    main = sys.modules["__main__"]
    if b"__main__" in pickled and main.__spec__ is None and not os.path.isfile(getattr(main, "__file__", None) or ""):
        raise TypeError(
            "the agent is defined in an interactive session, which runner processes cannot import: move it to a module"
        )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Starts processes of the block deaf to Ctrl+C, which is of no use to them and would show as a traceback of each.

    They inherit the mask and lift it when they are ready. In this process, Ctrl+C takes effect after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the tracker, which spawning does if need be, lifts the mask as a side effect.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class RunnerPool:
    """Spawned runner processes. They leave when told to, and when the process that started them is gone."""

    def __init__(self, bundle: RunnerBundle, n_runners: int, allowed_exit_codes: Collection[int] = (0,)) -> None:
        """Prepares the pool.

        Args:
            bundle: What each process runs; it must be picklable.
            n_runners: How many processes.
            allowed_exit_codes: Exit codes that are not taken for a crash.
        """
        self._bundle = bundle
        self._n_runners = n_runners
        self._allowed_exit_codes = frozenset(allowed_exit_codes)
        self._runners: list[RunnerProcess] = []
        self._changed: asyncio.Event | None = None

    def start(self, store: LightningStore) -> None:
        """Starts the processes. To be called on the event loop that will use `wait_until_left`.

        Args:
            store: The store that each process gets; it must be picklable and usable in another process.
        """
        self._changed = asyncio.Event()
        atexit.register(self.kill)
        for worker_id in range(self._n_runners):
            self._runners.append(self._start_one(worker_id, store, self._changed))

    async def wait_until_left(self) -> None:
        """Returns when no process is left."""
        assert self._changed is not None
        while not all(runner.ended.is_set() for runner in self._runners):
            await self._changed.wait()
            self._changed.clear()

    def failures(self) -> list[RunnerProcess]:
        """Returns those that ended by themselves and badly."""
        return [runner for runner in self._runners if runner.failed]

    def order(self, order: Order) -> None:
        """Tells all that are left to finish what they do and leave, or to abort it."""
        for runner in self._runners:
            runner.told_to_leave = runner.told_to_leave or not runner.ended.is_set()
            with suppress(OSError):
                runner.orders.send(order)

    def join(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for all to end; returns whether they have."""
        deadline = time.monotonic() + timeout
        return all(runner.ended.wait(max(0.0, deadline - time.monotonic())) for runner in self._runners)

    def kill(self) -> None:
        """Kills those that are left, and waits for their end."""
        for runner in self._runners:
            if not runner.ended.is_set():
                runner.told_to_leave = True
                logger.warning("runner %d (pid %s) is killed", runner.worker_id, runner.process.pid)
                runner.process.kill()
        self.join(5.0)
        atexit.unregister(self.kill)

    def _start_one(self, worker_id: int, store: LightningStore, changed: asyncio.Event) -> RunnerProcess:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # Not a daemon: those may have no children, and agents do start processes.
        process = context.Process(
            target=run_runner_process,
            args=(self._bundle, store, worker_id, theirs, LogSetup.of_this_process()),
            name=f"agl-runner-{worker_id}",
            daemon=False,
        )
        with _interrupts_held_back():
            process.start()
        theirs.close()
        runner = RunnerProcess(worker_id, process, ours)
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._watch, args=(runner, loop, changed), name=f"agl-watch-{worker_id}", daemon=True
        ).start()
        return runner

    def _watch(self, runner: RunnerProcess, loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
        # Only this thread waits for the process, because the exit code goes to whoever asks the system first.
        runner.process.join()
        with suppress(EOFError, OSError):
            while runner.orders.poll():
                message = runner.orders.recv()
                runner.started = runner.started or isinstance(message, Started)
                if isinstance(message, Crashed):
                    runner.error = message.error
        runner.orders.close()
        runner.failed = runner.process.exitcode not in self._allowed_exit_codes and not runner.told_to_leave
        runner.ended.set()
        if runner.failed:
            logger.error("%s", runner.describe_end())
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(changed.set)

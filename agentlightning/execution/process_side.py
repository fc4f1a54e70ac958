"""Sides in processes of their own, as the process sees them that starts them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext
from typing import Literal, cast

from agentlightning.execution.child_process import Crashed, LogSetup, Started, run_child
from agentlightning.execution.side import Order, Side, SideCall

logger = logging.getLogger(__name__)

StartMethod = Literal["spawn", "forkserver"]
"""How a process is started; see `multiprocessing`. Not by a fork of this one, which gRPC does not survive."""

_KILL_SECONDS = 5.0


class ProcessSide(Side):
    """A side in a process of its own. It leaves when told to, and when this process is gone."""

    def __init__(
        self,
        name: str,
        call: SideCall,
        *,
        start_method: StartMethod = "spawn",
        allowed_exit_codes: Collection[int] = (0,),
    ) -> None:
        """Starts the process.

        Args:
            name: What to call the side in messages.
            call: What it does; it must be picklable.
            start_method: How to start the process.
            allowed_exit_codes: Exit codes that are not taken for a crash.
        """
        super().__init__(name)
        self._allowed_exit_codes = allowed_exit_codes
        self._started = False
        self._last_words: str | None = None
        # Typeshed knows the class of a context by the literal only; the two are alike.
        context = cast("SpawnContext", multiprocessing.get_context(start_method))
        self._orders, theirs = context.Pipe()
        # Not a daemon: those may have no children, and agents do start processes.
        self._process = context.Process(
            target=run_child,
            args=(call, theirs, LogSetup.of_this_process()),
            name=f"agl-{name.replace(' ', '-')}",
            daemon=False,
        )
        with _interrupts_held_back():
            self._process.start()
        theirs.close()
        threading.Thread(target=self._watch, name=f"agl-watch-{name.replace(' ', '-')}", daemon=True).start()

    def describe_end(self) -> str:
        """Returns how it ended, in words."""
        code = self._process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {-code} (exit code {code})"
        why = f": {self._last_words}" if self._last_words else "" if self._started else " before it began"
        return f"{self.name} (pid {self._process.pid}) ended with {how}{why}"

    def kill(self) -> None:
        """Kills the process."""
        self.told_to_leave = True
        logger.warning("%s (pid %s) is killed", self.name, self._process.pid)
        self._process.kill()
        self.over.wait(_KILL_SECONDS)

    def _pass_on(self, order: Order) -> None:
        with suppress(OSError):
            self._orders.send(order)

    def _watch(self) -> None:
        # Only this thread waits for the process, because the exit code goes to whoever asks the system first.
        self._process.join()
        with suppress(EOFError, OSError):
            while self._orders.poll():
                message = self._orders.recv()
                self._started = self._started or isinstance(message, Started)
                if isinstance(message, Crashed):
                    self._last_words = message.error
        self._orders.close()
        if self._process.exitcode not in self._allowed_exit_codes:
            self.error = RuntimeError(self.describe_end())
        self._end()


def check_sendable(what: str, bundle: object, advice: str) -> None:
    """Finds out early what would fail late, and less clearly, in a process.

    Args:
        what: What is to be sent, for the error.
        bundle: It.
        advice: What to do if it cannot be sent, for the error.

    Raises:
        TypeError: It, or something that it holds, cannot be sent to another process.
        RuntimeError: This process is itself being started as one: the script lacks a main guard.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "runner processes import the main script, and this script starts a training when it is imported: "
            'put what it does under `if __name__ == "__main__":`'
        )
    try:
        pickled = pickle.dumps(bundle)
    except Exception as error:
        raise TypeError(f"{what} cannot be sent to another process: {error}. {advice}") from error
    main = sys.modules["__main__"]
    if b"__main__" in pickled and main.__spec__ is None and not os.path.isfile(getattr(main, "__file__", None) or ""):
        raise TypeError(
            f"{what} is defined in an interactive session, which other processes cannot import: move it to a module"
        )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Starts processes of the block deaf to Ctrl+C, which is of no use to them and would show as a traceback of each.

    They inherit the mask and lift it when they are ready. In this process, Ctrl+C takes effect after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the tracker, which starting a process does if need be, lifts the mask as a side effect.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

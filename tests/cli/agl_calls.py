"""`agl` in this process and in others."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

from store_process import environment

from agentlightning.cli import main
from agentlightning.store.blocking import BlockingStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import AttemptedRollout, AttemptFailure, Rollout, Span

COMMAND = [sys.executable, "-m", "agentlightning.cli"]


class Said(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output."""
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """Its output, which must be one JSON document."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        """Its output, which must be JSON lines."""
        return [json.loads(line) for line in self.lines]

    @property
    def table(self) -> list[dict[str, str]]:
        """Its output, which must be a table, as one dictionary for each row."""
        columns = [(found[0].strip(), *found.span()) for found in re.finditer(r"\S+\s*", self.lines[0])]
        last = columns[-1][0]
        return [
            {name: line[start : None if name == last else end].strip() for name, start, end in columns}
            for line in self.lines[1:]
        ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def agl(*words: str, typed: str | None = None) -> Said:
    """Runs `agl` in this process; `typed` is what a person answers, None if there is nobody."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.StringIO() if typed is None else _Terminal(typed)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdin = before
    return Said(code, out.getvalue(), err.getvalue())


def start_agl(*words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `agl` in a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *words], env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Run:
    """An experiment of its own on a server.

    Attributes:
        store: The store.
        place: The options that name it.
    """

    def __init__(self, address: str, experiment: str) -> None:
        self.store = BlockingStore(LightningStoreClient(address, experiment=experiment))
        self.place = ("--store", address, "--experiment", experiment)

    def agl(self, *words: str, typed: str | None = None) -> Said:
        """Runs `agl` on this experiment."""
        return agl(*words, *self.place, typed=typed)

    def enqueue(self, number: int = 1, **settings: Any) -> list[str]:
        """Enqueues rollouts, and returns their ids."""
        return [self.store.enqueue_rollout({"number": at}, **settings).rollout_id for at in range(number)]

    def claim(self, worker_id: str = "worker-1") -> AttemptedRollout:
        """Claims the next rollout."""
        claimed: AttemptedRollout = self.store.dequeue_rollout(worker_id=worker_id)
        return claimed

    def finish(self, rollout: AttemptedRollout, status: str = "succeeded", failure: str | None = None) -> None:
        """Reports the end of an attempt."""
        more = {} if failure is None else {"failure": AttemptFailure(kind="agent_error", message=failure)}
        self.store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status=status, **more)

    def add_span(self, rollout: AttemptedRollout, name: str, **settings: Any) -> Span:
        """Adds a span to an attempt."""
        place = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        span = Span.from_attributes(**{"attributes": {}, "name": name, **place, **settings})
        self.store.add_span(span)
        return span

    def statuses(self, ids: Sequence[str]) -> list[str]:
        """Returns the status of each rollout."""
        found: dict[str, Rollout] = {one.rollout_id: one for one in self.store.query_rollouts(rollout_id_in=ids)}
        return [found[rollout_id].status if rollout_id in found else "gone" for rollout_id in ids]

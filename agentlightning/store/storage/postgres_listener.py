"""What a store server hears from PostgreSQL: what other servers wrote, the time, and whether the watch is its own."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from agentlightning.store.errors import Unavailable
from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.postgres_connection import connect
from agentlightning.store.storage.signals import EVERYBODY, Signal

logger = logging.getLogger(__name__)

TURN = 1.0
_TURNS_TO_LOOK_EVERYWHERE = 10
_PAUSE_AFTER_LOSS = 0.25
_TURNS_TO_BE_SURE = 5
_TURNS_TO_BE_SILENT = 15
_LONGEST_NOTICE = 7000  # PostgreSQL takes 8000 bytes
_CHANGES_AT_ONCE = 1000
_EVERYTHING = Signal("everything")

_SELECT_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT * 1000"
_TAKE_WATCH = "SELECT pg_try_advisory_lock(hashtextextended('agentlightning watch', 0))"
_SELECT_QUEUES = "SELECT experiment, COUNT(*) FROM rollouts WHERE queued = 1 GROUP BY experiment"
_SELECT_ENDED = """
  SELECT change_seq, rollout_id FROM rollouts WHERE experiment = %s AND change_seq > %s AND end_time IS NOT NULL
  UNION ALL SELECT change_seq, rollout_id FROM tombstones WHERE experiment = %s AND change_seq > %s
  ORDER BY change_seq LIMIT %s"""
_SUM_TALLIES = """
  WITH parts AS (DELETE FROM tallies WHERE (SELECT COUNT(*) > 100 + 2 * COUNT(DISTINCT (experiment, name)) FROM tallies)
    RETURNING experiment, name, value)
  INSERT INTO tallies (experiment, name, value) SELECT experiment, name, SUM(value) FROM parts GROUP BY 1, 2"""


def notice(signals: Iterable[Signal]) -> str:
    """Return what to tell other servers of a commit: which kinds of things changed in which experiments."""
    counts: Counter[tuple[str, int]] = Counter()
    for signal in signals:
        if signal.topic == "queue":
            counts["queue", signal.experiment] += signal.value
        elif signal.topic != "deadline":  # whoever keeps the watch looks again and again
            counts[signal.topic, signal.experiment] = 1
    text = " ".join(f"{topic}:{experiment}:{min(n, EVERYBODY)}" for (topic, experiment), n in counts.items())
    return text if len(text) <= _LONGEST_NOTICE else "everything:0:1"


def _signals(text: str) -> Iterable[Signal]:
    for part in text.split():
        topic, experiment, value = part.split(":")
        yield Signal(topic, int(experiment), value=int(value))


class DatabaseClock(Clock):
    """The clock of the database, which all its servers go by."""

    _TOLERANCE = 20_000_000

    def set(self, now: int) -> None:
        """Take note of the time in nanoseconds; that of an answer is not known to the millisecond."""
        if abs(now - self.now()) > self._TOLERANCE:
            self._offset += now - self.now()


class PostgresListener:
    """A thread with a connection of its own, which listens.

    Args:
        url: The database.
        tell: Told what happened.
        clock: Kept right.
        turn: Seconds after which it looks at the time and for the watch; ten times that after which it looks whether
            anything was missed, and fifteen times that after which the watch goes to another server when it does not.
    """

    def __init__(
        self, url: str, tell: Callable[[list[Signal]], None], clock: DatabaseClock, turn: float = TURN
    ) -> None:
        self.own_backends: set[int] = set()
        """Those whose notices are not news."""
        self._url = url
        self._tell = tell
        self._clock = clock
        self._turn = turn
        self._terms = 0
        self._last_turn = time.monotonic()
        self._keeps_watch = False
        self._told: dict[int, int] = {}
        self._turns = 0
        self._closed = False
        self._connection: psycopg.Connection[Any] | None = self._open()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._loop, name="agentlightning-postgres-listener", daemon=True)
        self._thread.start()

    def watch_term(self) -> int | None:
        """As `Storage.watch_term`. A server that stood still may have lost the watch, and looks before it acts."""
        return self._terms if self._keeps_watch and not self._stood_still() else None

    def _stood_still(self) -> bool:
        return time.monotonic() - self._last_turn > _TURNS_TO_BE_SURE * self._turn

    def close(self) -> None:
        """Listen no more, and leave the watch to others."""
        self._closed = True
        self._wake.send(b"x")
        self._thread.join()
        self._wake.close()
        self._woken.close()
        self._drop()

    def _open(self) -> psycopg.Connection[Any]:
        # A server that was stopped must not keep the watch: PostgreSQL ends a session that is silent for long.
        connection = connect(self._url, "none", idle_session_timeout=f"{_TURNS_TO_BE_SILENT * self._turn}s")
        connection.execute("LISTEN agentlightning")
        self._take_turn(connection)
        return connection

    def _drop(self) -> None:
        self._keeps_watch = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _loop(self) -> None:
        next_turn = time.monotonic() + self._turn
        while not self._closed:
            try:
                if self._connection is None:
                    self._connection = self._open()
                    logger.warning("The database can be reached again.")
                    self._told.clear()
                    self._say(self._everything(self._connection))  # notices may have been missed
                self._wait(max(0.0, next_turn - time.monotonic()))
                self._say(self._heard(self._connection))
                if time.monotonic() >= next_turn:
                    self._say(self._take_turn(self._connection))
                    next_turn = time.monotonic() + self._turn
            except psycopg.Error as error:
                if self._connection is not None:
                    logger.warning("The connection to the database is lost: %s", str(error).strip())
                self._drop()
                self._wait(_PAUSE_AFTER_LOSS)
            except Unavailable as error:  # for good; whoever waits finds out
                logger.error("%s", error)
                self._say([_EVERYTHING])
                return

    def _wait(self, timeout: float) -> None:
        sources: list[Any] = [self._woken] if self._connection is None else [self._woken, self._connection]
        select.select(sources, [], [], timeout)

    def _say(self, signals: list[Signal]) -> None:
        if signals:
            self._tell(signals)

    def _take_turn(self, connection: psycopg.Connection[Any]) -> list[Signal]:
        """Look at the time and for the watch, and see to what those do who have it."""
        signals = []
        begun = time.monotonic_ns()
        (now,) = connection.execute(_SELECT_TIME).fetchone()  # type: ignore[misc]
        self._clock.set(now + (time.monotonic_ns() - begun) // 2)
        self._turns += 1
        if not self._keeps_watch:
            (self._keeps_watch,) = connection.execute(_TAKE_WATCH).fetchone()  # type: ignore[misc]
            self._terms += self._keeps_watch
        else:
            self._terms += self._stood_still()  # what it could not hear meanwhile was no silence
            connection.execute(_SUM_TALLIES)
        self._last_turn = time.monotonic()
        if self._keeps_watch:
            signals.append(Signal("deadline", value=0))
        if self._turns % _TURNS_TO_LOOK_EVERYWHERE == 0:
            signals += self._everything(connection)
        return signals

    def _everything(self, connection: psycopg.Connection[Any]) -> list[Signal]:
        """Return signals for all that may have happened, whether it was heard or not."""
        queues = connection.execute(_SELECT_QUEUES)
        return [_EVERYTHING, *(Signal("queue", experiment, value=count) for experiment, count in queues)]

    def _heard(self, connection: psycopg.Connection[Any]) -> list[Signal]:
        """Return what other servers did."""
        signals: list[Signal] = []
        ended: set[int] = set()
        for heard in connection.notifies(timeout=0):
            if heard.pid in self.own_backends:
                continue
            for signal in _signals(heard.payload):
                if signal.topic == "rollout":
                    ended.add(signal.experiment)
                else:
                    signals.append(signal)
        if _EVERYTHING in signals:
            signals += self._everything(connection)
        for experiment in ended:
            signals += self._ended(connection, experiment)
        return signals

    def _ended(self, connection: psycopg.Connection[Any], experiment: int) -> list[Signal]:
        """Return signals for the rollouts that were finished or deleted since it was last asked."""
        told = self._told.get(experiment)
        if told is None:
            found = connection.execute(
                "SELECT last FROM change_counters WHERE experiment = %s", (experiment,)
            ).fetchone()
            self._told[experiment] = 0 if found is None else found[0]
            return [_EVERYTHING]
        signals: list[Signal] = []
        while True:
            rows = connection.execute(_SELECT_ENDED, (experiment, told, experiment, told, _CHANGES_AT_ONCE)).fetchall()
            signals += [Signal("rollout", experiment, rollout_id) for _, rollout_id in rows]
            if rows:
                told = self._told[experiment] = rows[-1][0]
            if len(rows) < _CHANGES_AT_ONCE:
                return signals

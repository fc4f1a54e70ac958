"""A storage in PostgreSQL: durable, for any number of servers."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg

from agentlightning.store.errors import Unavailable
from agentlightning.store.storage.base import DEFAULT_DURABILITY, Durability
from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.groups import GroupedStorage, Groups, Job, settle
from agentlightning.store.storage.postgres_connection import connect, is_lost, open_store, store_error, was_overtaken
from agentlightning.store.storage.postgres_listener import TURN, DatabaseClock, PostgresListener, notice
from agentlightning.store.storage.postgres_tx import Overtaken, PostgresTx
from agentlightning.store.storage.signals import Signal

_WRITERS = 4
_READERS = 2
_LOCK_TIMEOUT = "250ms"
_MOST_TRIES = 20
_LONGEST_PAUSE = 0.25
_PATIENCE = 5.0
_PAUSE_BETWEEN_CONNECTS = 0.2


class PostgresStorage(GroupedStorage):
    """Keeps rows in a PostgreSQL database, together with other servers.

    Each of a few threads takes all works that are waiting into one transaction, so that many share one commit. A work
    that fails there, after it has written or because another transaction was faster, is run again in a transaction of
    its own, and the others without it.

    Args:
        url: `postgresql://user@host/database`, with the parameters that PostgreSQL's own clients take.
        durability: What every answered write survives.
        writers: Transactions that write at the same time.
        readers: Those that read.
        turn: As `PostgresListener` has it.

    Raises:
        StoreError: The database cannot be reached, is too old, or is of a newer release.
    """

    kind = "postgres"

    def __init__(
        self,
        url: str,
        durability: Durability = DEFAULT_DURABILITY,
        *,
        writers: int = _WRITERS,
        readers: int = _READERS,
        turn: float = TURN,
    ) -> None:
        super().__init__()
        self.store_id = open_store(url)
        clock = DatabaseClock()
        self.clock: Clock = clock
        try:
            self._news = PostgresListener(url, self._tell, clock, turn)
        except psycopg.Error as error:
            raise store_error(error) from error
        self._sessions = [_Session(url, durability, self._news.own_backends) for _ in range(writers + readers)]
        self._writes = Groups(
            "agentlightning-postgres-writer",
            "database",
            [_Transactions(session, self._tell, writes=True).run for session in self._sessions[:writers]],
        )
        self._reads = Groups(
            "agentlightning-postgres-reader",
            "database",
            [_Transactions(session, self._tell, writes=False).run for session in self._sessions[writers:]],
        )

    def watch_term(self) -> int | None:
        return self._news.watch_term()

    def close(self) -> None:
        self._reads.close()
        self._writes.close()
        for session in self._sessions:
            session.close()
        self._news.close()


class _Session:
    """The connection of one thread, opened when it is needed, and again when it was lost.

    Args:
        url: The database.
        durability: What commits survive.
        backends: Numbers of the processes that serve connections of this server.
    """

    def __init__(self, url: str, durability: Durability, backends: set[int]) -> None:
        self._url = url
        self._durability = durability
        self._backends = backends
        self._connection: psycopg.Connection[Any] | None = None
        self._failing_since: float | None = None

    def connection(self) -> psycopg.Connection[Any]:
        """Return the connection; a database that cannot be reached is tried for a while, since it may be restarting."""
        while self._connection is None:
            try:
                self._connection = connect(self._url, self._durability, lock_timeout=_LOCK_TIMEOUT)
                self._backends.add(self._connection.info.backend_pid)
                self._failing_since = None
            except psycopg.OperationalError:
                now = time.monotonic()
                self._failing_since = self._failing_since or now
                if now - self._failing_since > _PATIENCE:
                    raise
                time.sleep(_PAUSE_BETWEEN_CONNECTS)
        return self._connection

    def give_up(self, error: BaseException) -> bool:
        """Close the connection, which rolls back what an error has ended; tell whether it was the connection's fault.

        It is not used again, since statements may count as prepared that never were: psycopg does not notice when
        that was in a pipeline. Few transactions fail, and another connection takes but some milliseconds.
        """
        was_lost = self._connection is not None and is_lost(self._connection, error)
        self.close()
        return was_lost

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._backends.discard(self._connection.info.backend_pid)
            self._connection.close()
            self._connection = None


class _Failure(NamedTuple):
    """Why a transaction was rolled back."""

    error: BaseException
    job: Job | None
    """The work that failed; None when it was none of them."""
    may_pass: bool
    """Whether the same may succeed when it is tried again."""
    may_part: bool
    """Whether it was one of the works, though nobody knows which."""


class _Transactions:
    """Runs groups of works on one connection, each group in one transaction.

    Args:
        session: The connection.
        committed: Told the signals of each commit.
        writes: Whether the works write.
    """

    def __init__(self, session: _Session, committed: Callable[[list[Signal]], None], *, writes: bool) -> None:
        self._session = session
        self._committed = committed
        self._writes = writes
        self._begin = "BEGIN" if writes else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def run(self, group: list[Job]) -> None:
        """Run works, and settle them."""
        batches = deque([(group, 0)])
        while batches:
            jobs, tries = batches.popleft()
            failure = self._run(jobs)
            if failure is None:
                continue
            if failure.job is not None and len(jobs) > 1:
                batches.appendleft(([job for job in jobs if job is not failure.job], tries))
                batches.append(([failure.job], 0))
            elif failure.may_part and len(jobs) > 1:
                batches.extend([([job], 0) for job in jobs])
            elif failure.may_pass and tries < _MOST_TRIES:
                time.sleep(random.uniform(0.0, min(0.002 * 2.0**tries, _LONGEST_PAUSE)))
                batches.append((jobs, tries + 1))
            else:
                for job in jobs:
                    job.error = _as_store_error(failure.error)
                settle(jobs)

    def _run(self, jobs: list[Job]) -> _Failure | None:
        """Run works in one transaction and settle them, unless it had to be rolled back."""
        job: Job | None = None
        has_written = ends = False
        try:
            connection = self._session.connection()
            with connection.pipeline():  # only what is looked at is waited for
                connection.execute(self._begin)
                tx = PostgresTx(connection, writes=self._writes)
                for job in jobs:
                    tx.begin_work()
                    told = len(tx.signals)
                    job.error = None
                    try:
                        job.result = job.work(tx)
                    except Exception as error:
                        if tx.has_written or isinstance(error, (psycopg.Error, Overtaken)):
                            raise
                        del tx.signals[told:]
                        job.error = error
                    has_written = has_written or tx.has_written
                job, ends = None, True
                tx.commit(notice(tx.signals))
        except BaseException as error:  # noqa: BLE001  whatever it is belongs to the callers
            if self._session.give_up(error):
                return _Failure(error, None, may_pass=not (ends and has_written), may_part=False)
            was_late = was_overtaken(error) or isinstance(error, Overtaken)
            return _Failure(error, job, may_pass=was_late, may_part=ends and not was_late)
        if tx.signals:
            self._committed(tx.signals)
        settle(jobs)
        return None


def _as_store_error(error: BaseException) -> BaseException:
    if isinstance(error, Overtaken):
        return Unavailable(f"The database is overloaded: {error}.", reason="CONTENTION", retry_after=1.0)
    return store_error(error) if isinstance(error, psycopg.Error) else error

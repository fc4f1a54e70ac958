"""What must hold in the file of a store at every commit."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from postgres import connected

from lightning_store import v1

QUEUED = (v1.ROLLOUT_STATUS_QUEUING, v1.ROLLOUT_STATUS_REQUEUING)
FINISHED = (v1.ROLLOUT_STATUS_SUCCEEDED, v1.ROLLOUT_STATUS_FAILED, v1.ROLLOUT_STATUS_CANCELLED)
LIVE = (v1.ATTEMPT_STATUS_PREPARING, v1.ATTEMPT_STATUS_RUNNING)
ENDED = (v1.ATTEMPT_STATUS_SUCCEEDED, v1.ATTEMPT_STATUS_FAILED, v1.ATTEMPT_STATUS_TIMEOUT)

# Each finds the rows that break a rule.
BROKEN = {
    "the queue holds just the rollouts with a queued status": f"""
        SELECT rollout_id, status, queued FROM rollouts WHERE (queued = 1) <> (status IN {QUEUED})""",
    "places in the queue are taken once": """
        SELECT experiment, queue_place FROM rollouts WHERE queued = 1 GROUP BY 1, 2 HAVING COUNT(*) > 1""",
    "just finished rollouts have an end": f"""
        SELECT rollout_id, status, end_time FROM rollouts WHERE (end_time IS NOT NULL) <> (status IN {FINISHED})""",
    "just ended attempts have an end": f"""
        SELECT attempt_id, status, end_time FROM attempts WHERE (end_time IS NOT NULL) <> (status IN {ENDED})""",
    "every rollout has its body": """
        SELECT rollout_id FROM rollouts WHERE key NOT IN (SELECT rollout FROM bodies)""",
    "every body has its rollout": """
        SELECT rollout FROM bodies WHERE rollout NOT IN (SELECT key FROM rollouts)""",
    "every attempt has its rollout, in its experiment": """
        SELECT attempts.key FROM attempts LEFT JOIN rollouts ON rollouts.key = attempts.rollout
        WHERE rollouts.experiment IS NOT attempts.experiment""",
    "every span has its attempt, and that the same rollout": """
        SELECT spans.key FROM spans LEFT JOIN attempts ON attempts.key = spans.attempt
        WHERE attempts.rollout IS NOT spans.rollout""",
    "every span has its source": "SELECT key FROM spans WHERE source NOT IN (SELECT key FROM sources)",
    "the last attempt of a rollout is the one with the highest number": """
        SELECT rollout_id, last_attempt FROM rollouts WHERE last_attempt IS NOT
          (SELECT key FROM attempts WHERE rollout = rollouts.key ORDER BY sequence_id DESC LIMIT 1)""",
    "attempts are numbered from 1 without gaps": """
        SELECT rollout_id, attempts FROM rollouts WHERE
          attempts <> (SELECT COUNT(*) FROM attempts WHERE rollout = rollouts.key) OR
          attempts <> (SELECT COALESCE(MAX(sequence_id), 0) FROM attempts WHERE rollout = rollouts.key)""",
    "the counters of spans are right": """
        SELECT rollout_id, spans, span_bytes FROM rollouts WHERE
          spans <> (SELECT COUNT(*) FROM spans WHERE rollout = rollouts.key) OR
          span_bytes <> (SELECT COALESCE(SUM(length(body)), 0) FROM spans WHERE rollout = rollouts.key) OR
          span_seq < (SELECT COALESCE(MAX(sequence_id), 0) FROM spans WHERE rollout = rollouts.key)""",
    "a span is stored once": """
        SELECT attempt, hex(span_id) FROM spans WHERE span_id IS NOT NULL GROUP BY attempt, trace_id, span_id
        HAVING COUNT(*) > 1""",
    "changes are numbered once": """
        SELECT experiment, change_seq FROM (
          SELECT experiment, change_seq FROM rollouts UNION ALL SELECT experiment, change_seq FROM tombstones)
        GROUP BY 1, 2 HAVING COUNT(*) > 1""",
    "a rollout under way goes with its last attempt": f"""
        SELECT rollout_id, rollouts.status, attempts.status FROM rollouts
        JOIN attempts ON attempts.key = rollouts.last_attempt
        WHERE (rollouts.status = {v1.ROLLOUT_STATUS_PREPARING} AND attempts.status <> {v1.ATTEMPT_STATUS_PREPARING})
           OR (rollouts.status = {v1.ROLLOUT_STATUS_RUNNING} AND attempts.status <> {v1.ATTEMPT_STATUS_RUNNING})""",
    "a rollout that was never queued again and has no attempt is queued": f"""
        SELECT rollout_id, status FROM rollouts WHERE last_attempt IS NULL AND status NOT IN {(*QUEUED, *FINISHED)}""",
    "only live attempts are watched": f"""
        SELECT attempt_id, status FROM attempts WHERE expires_at IS NOT NULL AND status NOT IN {LIVE}""",
    "leases are watched": f"""
        SELECT attempt_id, status FROM attempts WHERE lease IS NOT NULL AND expires_at IS NULL AND status IN {LIVE}""",
    "the latest resources exist": """
        SELECT name FROM experiments WHERE latest_resources IS NOT NULL
          AND latest_resources NOT IN (SELECT key FROM resources)""",
    "a busy worker has a live attempt": f"""
        SELECT worker_id, current_attempt_id FROM workers WHERE status = {v1.WORKER_STATUS_BUSY} AND NOT EXISTS (
          SELECT 1 FROM attempts WHERE attempts.worker_id = workers.worker_id AND attempts.status IN {LIVE})""",
}

TALLIES = """
    SELECT experiment, 'rollouts.' || status AS name, COUNT(*) AS value FROM rollouts GROUP BY 1, 2
    UNION ALL SELECT experiment, 'attempts', COUNT(*) FROM attempts GROUP BY 1
    UNION ALL SELECT experiment, 'resources', COUNT(*) FROM resources GROUP BY 1
    UNION ALL SELECT experiment, 'workers', COUNT(*) FROM workers GROUP BY 1
    UNION ALL SELECT experiment, 'spans', SUM(spans) FROM rollouts GROUP BY 1
    UNION ALL SELECT experiment, 'span_bytes', SUM(span_bytes) FROM rollouts GROUP BY 1"""


def check_store(path: Path) -> None:
    """Check a store that no server has open, on a copy, so that it stays as its last owner left it."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                shutil.copy(part, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as database:
            check_database(database)


def check_database(database: sqlite3.Connection) -> None:
    """Check an open database."""
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    _check_rows(lambda statement: database.execute(statement).fetchall())


def check_postgres(url: str) -> None:
    """Check a store in PostgreSQL as it is at one moment."""
    with connected(url) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        _check_rows(
            lambda statement: connection.execute(re.sub(r"IS NOT\b(?! NULL)", "IS DISTINCT FROM", statement)).fetchall()
        )


def _check_rows(find: Callable[[str], list[tuple[Any, ...]]]) -> None:
    for rule, statement in BROKEN.items():
        found = find(statement)
        assert found == [], f"broken: {rule}: {found[:5]}"
    counted = {(experiment, name): value for experiment, name, value in find(TALLIES) if value}
    kept = find("SELECT experiment, name, SUM(value) FROM tallies WHERE name <> 'evicted_spans' GROUP BY 1, 2")
    assert {(experiment, name): value for experiment, name, value in kept if value} == counted

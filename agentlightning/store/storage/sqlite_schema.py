"""The tables in SQLite, step by step as releases have changed them."""

from __future__ import annotations

from agentlightning.store.storage.rows import END_OF_TIME
from agentlightning.store.storage.schema import ATTEMPT_STATUS, LIVE_ATTEMPT, ROLLOUT_STATUS

APPLICATION_ID = 0x41474C53
"""Marks a file as a store (`AGLS`), kept as `application_id` of the database."""


def _tally(name: str, value: str) -> str:
    return (
        "INSERT INTO tallies (experiment, name, value) "
        f"VALUES ({{row}}.experiment, {name}, {value}) "
        "ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;"
    )


_VERSION_1 = f"""
CREATE TABLE store (key INTEGER PRIMARY KEY CHECK (key = 1), store_id TEXT NOT NULL);

CREATE TABLE experiments (
  key INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, create_time INTEGER NOT NULL,
  latest_resources INTEGER, forgotten_seq INTEGER NOT NULL);

CREATE TABLE rollouts (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, rollout_id TEXT NOT NULL,
  status INTEGER NOT NULL, mode INTEGER NOT NULL, resources_id TEXT, start_time INTEGER NOT NULL, end_time INTEGER,
  queued INTEGER NOT NULL, queue_place INTEGER NOT NULL, change_seq INTEGER NOT NULL, last_attempt INTEGER,
  attempts INTEGER NOT NULL, span_seq INTEGER NOT NULL, spans INTEGER NOT NULL,
  span_bytes INTEGER NOT NULL, config BLOB NOT NULL, fingerprint BLOB NOT NULL);
CREATE UNIQUE INDEX rollouts_by_id ON rollouts (experiment, rollout_id);
CREATE INDEX rollouts_by_status ON rollouts (experiment, status, key);
CREATE INDEX rollouts_by_change ON rollouts (experiment, change_seq);
CREATE INDEX rollouts_in_queue ON rollouts (experiment, queue_place) WHERE queued = 1;

CREATE TABLE bodies (rollout INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE attempts (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, rollout INTEGER NOT NULL,
  attempt_id TEXT NOT NULL, sequence_id INTEGER NOT NULL, status INTEGER NOT NULL, start_time INTEGER NOT NULL,
  end_time INTEGER, worker_id TEXT, claim_id TEXT, last_heartbeat_time INTEGER, beat INTEGER NOT NULL, lease INTEGER,
  expires_at INTEGER, charged INTEGER NOT NULL, evicted_spans INTEGER NOT NULL,
  prior_status INTEGER NOT NULL, prior_end_time INTEGER, details BLOB NOT NULL);
CREATE UNIQUE INDEX attempts_by_id ON attempts (rollout, attempt_id);
CREATE INDEX attempts_by_claim ON attempts (experiment, claim_id) WHERE claim_id IS NOT NULL;
CREATE INDEX attempts_by_expiry ON attempts (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX attempts_by_worker ON attempts (experiment, worker_id) WHERE worker_id IS NOT NULL AND {LIVE_ATTEMPT};

CREATE TABLE sources (
  key INTEGER PRIMARY KEY, experiment INTEGER NOT NULL, fingerprint BLOB NOT NULL, spans INTEGER NOT NULL,
  body BLOB NOT NULL);
CREATE UNIQUE INDEX sources_by_fingerprint ON sources (experiment, fingerprint);

CREATE TABLE spans (
  key INTEGER PRIMARY KEY AUTOINCREMENT, rollout INTEGER NOT NULL, attempt INTEGER NOT NULL,
  trace_id BLOB, span_id BLOB, parent_id BLOB, sequence_id INTEGER NOT NULL,
  start_time INTEGER NOT NULL, end_time INTEGER NOT NULL, name TEXT NOT NULL, source INTEGER NOT NULL,
  body BLOB NOT NULL);
CREATE UNIQUE INDEX spans_by_identity ON spans (attempt, span_id, trace_id) WHERE span_id IS NOT NULL;
CREATE INDEX spans_in_order ON spans (rollout, sequence_id, start_time);

CREATE TABLE resources (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, resources_id TEXT NOT NULL,
  version INTEGER NOT NULL, create_time INTEGER NOT NULL, update_time INTEGER NOT NULL,
  fingerprint BLOB NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX resources_by_id ON resources (experiment, resources_id);

CREATE TABLE workers (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, worker_id TEXT NOT NULL, status INTEGER NOT NULL,
  last_heartbeat_time INTEGER, last_dequeue_time INTEGER, last_busy_time INTEGER, last_idle_time INTEGER,
  current_rollout_id TEXT, current_attempt_id TEXT, draining INTEGER NOT NULL, stats BLOB);
CREATE UNIQUE INDEX workers_by_id ON workers (experiment, worker_id);

CREATE TABLE tombstones (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, rollout_id TEXT NOT NULL,
  change_seq INTEGER NOT NULL, delete_time INTEGER NOT NULL);
CREATE UNIQUE INDEX tombstones_by_id ON tombstones (experiment, rollout_id);
CREATE INDEX tombstones_by_change ON tombstones (experiment, change_seq);

-- Totals are kept by triggers, so that no rule can forget one.
CREATE TABLE tallies (
  experiment INTEGER NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL,
  PRIMARY KEY (experiment, name)) WITHOUT ROWID;
CREATE TRIGGER rollout_added AFTER INSERT ON rollouts BEGIN
  {_tally("'rollouts.' || NEW.status", "1").format(row="NEW")}
END;
CREATE TRIGGER rollout_moved AFTER UPDATE OF status ON rollouts WHEN OLD.status <> NEW.status BEGIN
  {_tally("'rollouts.' || OLD.status", "-1").format(row="NEW")}
  {_tally("'rollouts.' || NEW.status", "1").format(row="NEW")}
END;
CREATE TRIGGER rollout_spans AFTER UPDATE OF span_bytes ON rollouts BEGIN
  {_tally("'spans'", "NEW.spans - OLD.spans").format(row="NEW")}
  {_tally("'span_bytes'", "NEW.span_bytes - OLD.span_bytes").format(row="NEW")}
END;
CREATE TRIGGER rollout_removed AFTER DELETE ON rollouts BEGIN
  {_tally("'rollouts.' || OLD.status", "-1").format(row="OLD")}
  {_tally("'spans'", "-OLD.spans").format(row="OLD")}
  {_tally("'span_bytes'", "-OLD.span_bytes").format(row="OLD")}
END;
CREATE TRIGGER attempt_added AFTER INSERT ON attempts BEGIN
  {_tally("'attempts'", "1").format(row="NEW")}
END;
CREATE TRIGGER attempt_removed AFTER DELETE ON attempts BEGIN
  {_tally("'attempts'", "-1").format(row="OLD")}
END;
CREATE TRIGGER attempt_evicted AFTER UPDATE OF evicted_spans ON attempts BEGIN
  {_tally("'evicted_spans'", "NEW.evicted_spans - OLD.evicted_spans").format(row="NEW")}
END;

-- For people who look into the file.
CREATE VIEW rollout_overview AS
  SELECT experiments.name AS experiment, rollouts.rollout_id, {ROLLOUT_STATUS} AS status,
    rollouts.attempts, rollouts.spans, rollouts.resources_id,
    datetime(rollouts.start_time / 1000000000, 'unixepoch') AS started,
    datetime(rollouts.end_time / 1000000000, 'unixepoch') AS ended
  FROM rollouts JOIN experiments ON experiments.key = rollouts.experiment;
CREATE VIEW attempt_overview AS
  SELECT rollouts.rollout_id, attempts.attempt_id, attempts.sequence_id, {ATTEMPT_STATUS} AS status,
    attempts.worker_id, datetime(attempts.start_time / 1000000000, 'unixepoch') AS started,
    round((attempts.end_time - attempts.start_time) / 1e9, 3) AS seconds
  FROM attempts JOIN rollouts ON rollouts.key = attempts.rollout;
"""

# Totals of resources and workers were counted, row by row, for each statistics.
_VERSION_2 = f"""
INSERT INTO tallies SELECT experiment, 'resources', COUNT(*) FROM resources GROUP BY experiment;
INSERT INTO tallies SELECT experiment, 'workers', COUNT(*) FROM workers GROUP BY experiment;
CREATE TRIGGER resources_added AFTER INSERT ON resources BEGIN
  {_tally("'resources'", "1").format(row="NEW")}
END;
CREATE TRIGGER worker_added AFTER INSERT ON workers BEGIN
  {_tally("'workers'", "1").format(row="NEW")}
END;
"""

# Lists sorted the whole table, or what the filter left of it. The key is part of every index.
_VERSION_3 = f"""
DROP INDEX rollouts_by_status;
CREATE INDEX rollouts_by_state ON rollouts (experiment, status, mode);
CREATE INDEX rollouts_by_creation ON rollouts (experiment);
CREATE INDEX rollouts_by_start ON rollouts (experiment, start_time);
CREATE INDEX rollouts_by_end ON rollouts (experiment, COALESCE(end_time, {END_OF_TIME}));
CREATE INDEX rollouts_by_resources ON rollouts (experiment, COALESCE(resources_id, ''));
CREATE INDEX rollouts_to_evict ON rollouts (start_time) WHERE spans > 0 AND end_time IS NOT NULL;
CREATE INDEX resources_by_creation ON resources (experiment);
CREATE INDEX resources_by_create_time ON resources (experiment, create_time);
CREATE INDEX resources_by_update_time ON resources (experiment, update_time);
CREATE INDEX resources_by_version ON resources (experiment, version);
CREATE INDEX workers_by_creation ON workers (experiment);
CREATE INDEX tombstones_by_time ON tombstones (delete_time);
"""

STEPS = (_VERSION_1, _VERSION_2, _VERSION_3)
"""What makes the tables of each version out of those of the one before; what has been released never changes."""

VERSION = len(STEPS)
"""Version of the tables, kept as `user_version` of the database."""

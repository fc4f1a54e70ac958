-- A store as a release with tables of version 1 left it.
PRAGMA application_id = 0x41474C53;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE attempts (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, rollout INTEGER NOT NULL,
  attempt_id TEXT NOT NULL, sequence_id INTEGER NOT NULL, status INTEGER NOT NULL, start_time INTEGER NOT NULL,
  end_time INTEGER, worker_id TEXT, claim_id TEXT, last_heartbeat_time INTEGER, beat INTEGER NOT NULL, lease INTEGER,
  expires_at INTEGER, charged INTEGER NOT NULL, evicted_spans INTEGER NOT NULL,
  prior_status INTEGER NOT NULL, prior_end_time INTEGER, details BLOB NOT NULL);
INSERT INTO "attempts" VALUES(1,1,2,'at-1',1,2,1700000000000000000,NULL,'w1',NULL,1700000000000000000,1700000000000000000,NULL,NULL,1,0,1,NULL,X'');
CREATE TABLE bodies (rollout INTEGER PRIMARY KEY, body BLOB NOT NULL);
INSERT INTO "bodies" VALUES(1,X'121C0A106170706C69636174696F6E2F6A736F6E12087B2261223A20317D');
INSERT INTO "bodies" VALUES(2,X'12180A106170706C69636174696F6E2F6A736F6E12046E756C6C');
INSERT INTO "bodies" VALUES(4,X'12180A106170706C69636174696F6E2F6A736F6E12046E756C6C');
CREATE TABLE experiments (
  key INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, create_time INTEGER NOT NULL,
  latest_resources INTEGER, forgotten_seq INTEGER NOT NULL);
INSERT INTO "experiments" VALUES(1,'default',1700000000000000000,2,0);
INSERT INTO "experiments" VALUES(2,'other',1700000000000000000,NULL,0);
CREATE TABLE resources (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, resources_id TEXT NOT NULL,
  version INTEGER NOT NULL, create_time INTEGER NOT NULL, update_time INTEGER NOT NULL,
  fingerprint BLOB NOT NULL, body BLOB NOT NULL);
INSERT INTO "resources" VALUES(1,1,'rs-1',1,1700000000000000000,1700000000000000000,X'E3FA278EF6223E21CE98C5AD4930099B',X'1A1B0A046D61696E12131A110A0548656C6C6F1208662D737472696E67');
INSERT INTO "resources" VALUES(2,1,'rs-2',1,1700000000000000000,1700000000000000000,X'044F536726FE12C9951DA25B30922842',X'1A180A046D61696E12101A0E0A0248691208662D737472696E67');
CREATE TABLE rollouts (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, rollout_id TEXT NOT NULL,
  status INTEGER NOT NULL, mode INTEGER NOT NULL, resources_id TEXT, start_time INTEGER NOT NULL, end_time INTEGER,
  queued INTEGER NOT NULL, queue_place INTEGER NOT NULL, change_seq INTEGER NOT NULL, last_attempt INTEGER,
  attempts INTEGER NOT NULL, span_seq INTEGER NOT NULL, spans INTEGER NOT NULL,
  span_bytes INTEGER NOT NULL, config BLOB NOT NULL, fingerprint BLOB NOT NULL);
INSERT INTO "rollouts" VALUES(1,1,'queued',1,0,'rs-2',1700000000000000000,NULL,1,1,1,NULL,0,0,0,0,X'',X'E6DD1A06EB1AD1967CCD2073DEF1C0ED');
INSERT INTO "rollouts" VALUES(2,1,'running',3,0,'rs-2',1700000000000000000,NULL,0,2,4,1,1,1,1,51,X'',X'64E7EF38F0BC3DA30BA0C166EE7C7D86');
INSERT INTO "rollouts" VALUES(4,2,'elsewhere',1,0,NULL,1700000000000000000,NULL,1,1,1,NULL,0,0,0,0,X'',X'086B93F69A3A649C39ECFD2EEDCC35E9');
CREATE TABLE sources (
  key INTEGER PRIMARY KEY, experiment INTEGER NOT NULL, fingerprint BLOB NOT NULL, spans INTEGER NOT NULL,
  body BLOB NOT NULL);
INSERT INTO "sources" VALUES(1,1,X'366E785BD8C8EF3A83F9ADC03C7E04FC',1,X'1200');
CREATE TABLE spans (
  key INTEGER PRIMARY KEY AUTOINCREMENT, rollout INTEGER NOT NULL, attempt INTEGER NOT NULL,
  trace_id BLOB, span_id BLOB, parent_id BLOB, sequence_id INTEGER NOT NULL,
  start_time INTEGER NOT NULL, end_time INTEGER NOT NULL, name TEXT NOT NULL, source INTEGER NOT NULL,
  body BLOB NOT NULL);
INSERT INTO "spans" VALUES(1,2,1,X'74747474747474747474747474747474',X'7373737373737373',NULL,1,0,0,'kept',1,X'0A1074747474747474747474747474747474120873737373737373732A046B657074A2060772756E6E696E67AA060461742D31');
CREATE TABLE store (key INTEGER PRIMARY KEY CHECK (key = 1), store_id TEXT NOT NULL);
INSERT INTO "store" VALUES(1,'c75874be6f1f4ed58164466e9d73b8b4');
CREATE TABLE tallies (
  experiment INTEGER NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL,
  PRIMARY KEY (experiment, name)) WITHOUT ROWID;
INSERT INTO "tallies" VALUES(1,'attempts',1);
INSERT INTO "tallies" VALUES(1,'rollouts.1',1);
INSERT INTO "tallies" VALUES(1,'rollouts.2',0);
INSERT INTO "tallies" VALUES(1,'rollouts.3',1);
INSERT INTO "tallies" VALUES(1,'span_bytes',51);
INSERT INTO "tallies" VALUES(1,'spans',1);
INSERT INTO "tallies" VALUES(2,'rollouts.1',1);
CREATE TABLE tombstones (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, rollout_id TEXT NOT NULL,
  change_seq INTEGER NOT NULL, delete_time INTEGER NOT NULL);
INSERT INTO "tombstones" VALUES(1,1,'gone',6,1700000000000000000);
CREATE TABLE workers (
  key INTEGER PRIMARY KEY AUTOINCREMENT, experiment INTEGER NOT NULL, worker_id TEXT NOT NULL, status INTEGER NOT NULL,
  last_heartbeat_time INTEGER, last_dequeue_time INTEGER, last_busy_time INTEGER, last_idle_time INTEGER,
  current_rollout_id TEXT, current_attempt_id TEXT, draining INTEGER NOT NULL, stats BLOB);
INSERT INTO "workers" VALUES(1,1,'w1',2,NULL,NULL,1700000000000000000,NULL,'running','at-1',0,NULL);
INSERT INTO "workers" VALUES(2,1,'w2',3,1700000000000000000,NULL,NULL,NULL,NULL,NULL,0,NULL);
CREATE UNIQUE INDEX rollouts_by_id ON rollouts (experiment, rollout_id);
CREATE INDEX rollouts_by_status ON rollouts (experiment, status, key);
CREATE INDEX rollouts_by_change ON rollouts (experiment, change_seq);
CREATE INDEX rollouts_in_queue ON rollouts (experiment, queue_place) WHERE queued = 1;
CREATE UNIQUE INDEX attempts_by_id ON attempts (rollout, attempt_id);
CREATE INDEX attempts_by_claim ON attempts (experiment, claim_id) WHERE claim_id IS NOT NULL;
CREATE INDEX attempts_by_expiry ON attempts (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX attempts_by_worker ON attempts (experiment, worker_id) WHERE worker_id IS NOT NULL AND status IN (1, 2);
CREATE UNIQUE INDEX sources_by_fingerprint ON sources (experiment, fingerprint);
CREATE UNIQUE INDEX spans_by_identity ON spans (attempt, span_id, trace_id) WHERE span_id IS NOT NULL;
CREATE INDEX spans_in_order ON spans (rollout, sequence_id, start_time);
CREATE UNIQUE INDEX resources_by_id ON resources (experiment, resources_id);
CREATE UNIQUE INDEX workers_by_id ON workers (experiment, worker_id);
CREATE UNIQUE INDEX tombstones_by_id ON tombstones (experiment, rollout_id);
CREATE INDEX tombstones_by_change ON tombstones (experiment, change_seq);
CREATE TRIGGER rollout_added AFTER INSERT ON rollouts BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'rollouts.' || NEW.status, 1) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER rollout_moved AFTER UPDATE OF status ON rollouts WHEN OLD.status <> NEW.status BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'rollouts.' || OLD.status, -1) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'rollouts.' || NEW.status, 1) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER rollout_spans AFTER UPDATE OF span_bytes ON rollouts BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'spans', NEW.spans - OLD.spans) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'span_bytes', NEW.span_bytes - OLD.span_bytes) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER rollout_removed AFTER DELETE ON rollouts BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (OLD.experiment, 'rollouts.' || OLD.status, -1) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
  INSERT INTO tallies (experiment, name, value) VALUES (OLD.experiment, 'spans', -OLD.spans) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
  INSERT INTO tallies (experiment, name, value) VALUES (OLD.experiment, 'span_bytes', -OLD.span_bytes) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER attempt_added AFTER INSERT ON attempts BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'attempts', 1) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER attempt_removed AFTER DELETE ON attempts BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (OLD.experiment, 'attempts', -1) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE TRIGGER attempt_evicted AFTER UPDATE OF evicted_spans ON attempts BEGIN
  INSERT INTO tallies (experiment, name, value) VALUES (NEW.experiment, 'evicted_spans', NEW.evicted_spans - OLD.evicted_spans) ON CONFLICT (experiment, name) DO UPDATE SET value = value + excluded.value;
END;
CREATE VIEW rollout_overview AS
  SELECT experiments.name AS experiment, rollouts.rollout_id, CASE rollouts.status WHEN 0 THEN 'unspecified' WHEN 1 THEN 'queuing' WHEN 2 THEN 'preparing' WHEN 3 THEN 'running' WHEN 4 THEN 'failed' WHEN 5 THEN 'succeeded' WHEN 6 THEN 'cancelled' WHEN 7 THEN 'requeuing' ELSE '' END AS status,
    rollouts.attempts, rollouts.spans, rollouts.resources_id,
    datetime(rollouts.start_time / 1000000000, 'unixepoch') AS started,
    datetime(rollouts.end_time / 1000000000, 'unixepoch') AS ended
  FROM rollouts JOIN experiments ON experiments.key = rollouts.experiment;
CREATE VIEW attempt_overview AS
  SELECT rollouts.rollout_id, attempts.attempt_id, attempts.sequence_id, CASE attempts.status WHEN 0 THEN 'unspecified' WHEN 1 THEN 'preparing' WHEN 2 THEN 'running' WHEN 3 THEN 'failed' WHEN 4 THEN 'succeeded' WHEN 5 THEN 'unresponsive' WHEN 6 THEN 'timeout' ELSE '' END AS status,
    attempts.worker_id, datetime(attempts.start_time / 1000000000, 'unixepoch') AS started,
    round((attempts.end_time - attempts.start_time) / 1e9, 3) AS seconds
  FROM attempts JOIN rollouts ON rollouts.key = attempts.rollout;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('experiments',2);
INSERT INTO "sqlite_sequence" VALUES('resources',2);
INSERT INTO "sqlite_sequence" VALUES('rollouts',4);
INSERT INTO "sqlite_sequence" VALUES('attempts',1);
INSERT INTO "sqlite_sequence" VALUES('workers',2);
INSERT INTO "sqlite_sequence" VALUES('spans',1);
INSERT INTO "sqlite_sequence" VALUES('tombstones',1);
COMMIT;

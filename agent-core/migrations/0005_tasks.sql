-- Tasks that were submitted here (role 'asked'), and rows without words about tasks that were
-- served or that somebody waited for (storage/tasks.rs).
CREATE TABLE tasks (
    id                TEXT    PRIMARY KEY NOT NULL,
    role              TEXT    NOT NULL,
    interactive       INTEGER NOT NULL,
    kind              TEXT    NOT NULL,
    state             TEXT    NOT NULL,
    reason            TEXT    NOT NULL,
    priority          INTEGER NOT NULL,
    -- What a node has to have for it, as a number: tasks of one need wait in one lane.
    need              INTEGER NOT NULL,
    privacy           TEXT    NOT NULL,
    node              TEXT,
    label             TEXT,
    subject           TEXT,
    schedule          TEXT,
    idempotency_key   TEXT,
    -- SHA-256 of the canonical body.
    body_hash         BLOB,
    origin            TEXT    NOT NULL,
    origin_name       TEXT    NOT NULL,
    worker            TEXT,
    worker_name       TEXT,
    path              TEXT,
    fence             INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    -- Tries that count against max_attempts.
    failures          INTEGER NOT NULL,
    max_attempts      INTEGER NOT NULL,
    -- Nodes that are to do it, and the most that may.
    wanted            INTEGER NOT NULL,
    most              INTEGER NOT NULL,
    -- The submission asked for these nodes; else this node chose to compare.
    replicas          INTEGER,
    created_ms        INTEGER NOT NULL,
    started_ms        INTEGER,
    ended_ms          INTEGER,
    expires_ms        INTEGER,
    prompt_tokens     INTEGER,
    completion_tokens INTEGER,
    tokens_per_s      REAL,
    first_token_ms    REAL,
    -- JSON.
    webhook           TEXT,
    -- Large ones last: SQLite reads a row from its beginning.
    submitted         TEXT,
    job               TEXT,
    output            TEXT
) STRICT;
CREATE UNIQUE INDEX tasks_key ON tasks (idempotency_key) WHERE idempotency_key IS NOT NULL;
-- The next one of a need.
CREATE INDEX tasks_claim ON tasks (need, priority DESC, id) WHERE state = 'queued';
CREATE INDEX tasks_state ON tasks (state, id);
CREATE INDEX tasks_kind ON tasks (kind, id);
CREATE INDEX tasks_role ON tasks (role, id);
CREATE INDEX tasks_ended ON tasks (id) WHERE ended_ms IS NOT NULL;
CREATE INDEX tasks_ended_at ON tasks (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX tasks_expiry ON tasks (expires_ms) WHERE ended_ms IS NULL;

-- Every transition.
CREATE TABLE task_events (
    id        INTEGER PRIMARY KEY,
    task      TEXT    NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    at_ms     INTEGER NOT NULL,
    state     TEXT    NOT NULL,
    attempt   INTEGER NOT NULL,
    node      TEXT,
    node_name TEXT,
    text      TEXT    NOT NULL
) STRICT;
CREATE INDEX task_events_task ON task_events (task, id);

-- Every try on a node.
CREATE TABLE task_attempts (
    task      TEXT    NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    fence     INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    node      TEXT    NOT NULL,
    node_name TEXT    NOT NULL,
    path      TEXT,
    begun_ms  INTEGER NOT NULL,
    ended_ms  INTEGER,
    outcome   TEXT,
    reason    TEXT    NOT NULL,
    -- JSON, until the next attempt has one.
    placement TEXT,
    -- JSON, while it waits for others to compare it with.
    result    TEXT,
    PRIMARY KEY (task, fence)
) STRICT, WITHOUT ROWID;

-- How many tasks are in each state, so that counting does not read 100,000 rows.
CREATE TABLE task_counts (state TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO task_counts VALUES ('queued', 0), ('placed', 0), ('leased', 0), ('running', 0),
    ('verifying', 0), ('done', 0), ('failed', 0), ('cancelled', 0), ('expired', 0);
-- How many ended on a day (UTC, days since 1970).
CREATE TABLE task_days (
    day   INTEGER NOT NULL,
    state TEXT    NOT NULL,
    n     INTEGER NOT NULL,
    PRIMARY KEY (day, state)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER tasks_added AFTER INSERT ON tasks BEGIN
    UPDATE task_counts SET n = n + 1 WHERE state = new.state;
END;
CREATE TRIGGER tasks_added_ended AFTER INSERT ON tasks WHEN new.ended_ms IS NOT NULL BEGIN
    INSERT INTO task_days VALUES (new.ended_ms / 86400000, new.state, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER tasks_moved AFTER UPDATE OF state ON tasks WHEN old.state <> new.state BEGIN
    UPDATE task_counts SET n = n + 1 WHERE state = new.state;
    UPDATE task_counts SET n = n - 1 WHERE state = old.state;
END;
CREATE TRIGGER tasks_just_ended AFTER UPDATE OF state ON tasks
WHEN old.ended_ms IS NULL AND new.ended_ms IS NOT NULL BEGIN
    INSERT INTO task_days VALUES (new.ended_ms / 86400000, new.state, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER tasks_removed AFTER DELETE ON tasks BEGIN
    UPDATE task_counts SET n = n - 1 WHERE state = old.state;
END;

-- Results of other nodes' tasks, kept until they said that they have them.
CREATE TABLE served_results (
    origin BLOB    NOT NULL CHECK (length(origin) = 32),
    task   TEXT    NOT NULL,
    fence  INTEGER NOT NULL,
    at_ms  INTEGER NOT NULL,
    result BLOB    NOT NULL,
    PRIMARY KEY (origin, task, fence)
) STRICT;
CREATE INDEX served_results_at ON served_results (at_ms);
-- One row: what they take together.
CREATE TABLE served_size (bytes INTEGER NOT NULL, n INTEGER NOT NULL) STRICT;
INSERT INTO served_size VALUES (0, 0);
CREATE TRIGGER served_added AFTER INSERT ON served_results BEGIN
    UPDATE served_size SET bytes = bytes + length(new.result), n = n + 1;
END;
CREATE TRIGGER served_removed AFTER DELETE ON served_results BEGIN
    UPDATE served_size SET bytes = bytes - length(old.result), n = n - 1;
END;

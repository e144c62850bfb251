-- Tasks that are submitted by the clock, and results on their way to webhooks.

-- At most 1,000 rows (storage/schedules.rs).
CREATE TABLE schedules (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    cron       TEXT    NOT NULL,
    -- NULL: this computer's, which has no name.
    zone       TEXT,
    -- JSON of the task as it was given, with its webhook's secret.
    task       TEXT    NOT NULL,
    missed     TEXT    NOT NULL CHECK (missed IN ('skip', 'run_once')),
    paused     INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    -- Runs up to this time are dealt with.
    done_ms    INTEGER NOT NULL,
    last_ms    INTEGER,
    last_task  TEXT,
    problem    TEXT
) STRICT;

-- Bounded by state (storage/outbox.rs). No reference to the task: the result is sent even if the
-- task is forgotten first.
CREATE TABLE outbox (
    id         TEXT    PRIMARY KEY,
    task       TEXT    NOT NULL,
    url        TEXT    NOT NULL,
    secret     TEXT,
    -- What is posted; empty once it is delivered.
    body       TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead')),
    attempts   INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    -- When it ended, of rows that do not wait.
    ended_ms   INTEGER,
    next_ms    INTEGER,
    problem    TEXT
) STRICT;
CREATE INDEX outbox_due ON outbox (state, next_ms, bytes);
CREATE INDEX outbox_ended ON outbox (state, ended_ms);

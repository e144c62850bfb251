-- What the owner sees in the activity feed, newest kept (see limits::ACTIVITY_ROWS).
CREATE TABLE activity (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    kind  TEXT    NOT NULL,
    text  TEXT    NOT NULL
) STRICT;

-- Finished inference requests. Prompts and answers are never stored.
CREATE TABLE requests (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms             INTEGER NOT NULL,
    kind              TEXT    NOT NULL CHECK (kind IN ('chat', 'completion', 'embedding')),
    model             TEXT    NOT NULL,
    outcome           TEXT    NOT NULL CHECK (outcome IN ('done', 'failed', 'cancelled')),
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    first_token_ms    REAL,
    total_ms          REAL    NOT NULL
) STRICT;
CREATE INDEX requests_at ON requests (at_ms);

-- Small facts that outlive a restart, such as a pause.
CREATE TABLE node_state (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

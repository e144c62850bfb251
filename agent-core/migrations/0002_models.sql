-- What the head of a model file says, so that listing a thousand of them reads none again.
-- A row is believed while path, size and time of change agree (see limits in storage/heads.rs).
CREATE TABLE heads (
    path        TEXT    PRIMARY KEY,
    size        INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    -- Version of the JSON in `head`; another one is read from the file again.
    shape       INTEGER NOT NULL,
    head        TEXT,
    problem     TEXT,
    CHECK ((head IS NULL) <> (problem IS NULL))
) STRICT;

-- What each model did here: when it was last used, how fast it was, how long it took to load.
CREATE TABLE model_use (
    id                TEXT    PRIMARY KEY,
    changed_ms        INTEGER NOT NULL,
    last_used_ms      INTEGER,
    requests          INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    generate_ms       REAL    NOT NULL DEFAULT 0,
    load_ms           REAL
) STRICT;
CREATE INDEX model_use_changed ON model_use (changed_ms);

-- What this node's own experience says of others (storage/reputation.rs bounds the table).
CREATE TABLE reputation (
    node       BLOB    NOT NULL PRIMARY KEY CHECK (length(node) = 32),
    -- When it was met last, milliseconds since 1970.
    at_ms      INTEGER NOT NULL,
    -- JSON; see tasks/reputation.rs.
    reputation TEXT    NOT NULL
) STRICT;
CREATE INDEX reputation_at ON reputation (at_ms);

-- Pulls that are not done: what the owner wants of each, so that a restart goes on.
CREATE TABLE pulls (
    id             TEXT    PRIMARY KEY,
    -- A complete model name, or the address of a GGUF file.
    source         TEXT    NOT NULL,
    wanted         TEXT    NOT NULL CHECK (wanted IN ('running', 'paused', 'failed')),
    reason         TEXT    NOT NULL,
    created_at_ms  INTEGER NOT NULL,
    swap_when_done INTEGER NOT NULL,
    -- The bytes of the manifest once it is known: what was begun is finished as it was.
    manifest       BLOB
) STRICT;

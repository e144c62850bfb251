-- Peers of earlier days, so that a node finds its mesh again without a seed (storage/mesh.rs
-- bounds the table). A node that was in several meshes has a row in each.
CREATE TABLE mesh_peers (
    mesh      BLOB    NOT NULL CHECK (length(mesh) = 32),
    node      BLOB    NOT NULL CHECK (length(node) = 32),
    name      TEXT    NOT NULL,
    -- JSON of its addresses and relays.
    addresses TEXT    NOT NULL,
    seen_ms   INTEGER NOT NULL,
    PRIMARY KEY (mesh, node)
) STRICT;
CREATE INDEX mesh_peers_seen ON mesh_peers (seen_ms);

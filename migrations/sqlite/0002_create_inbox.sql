-- Webhook deliveries: the row is committed before the 2xx.
CREATE TABLE inbox (
    id             TEXT PRIMARY KEY,
    hook_id        TEXT NOT NULL REFERENCES hooks (hook_id),
    delivery_id    TEXT NOT NULL,
    event          TEXT NOT NULL,
    body_digest    TEXT NOT NULL,
    headers        TEXT NOT NULL,
    body           BLOB NOT NULL,
    received_ms    BIGINT NOT NULL,
    -- pending | built | attached | ignored | quarantined
    state          TEXT NOT NULL,
    decision       TEXT,
    build_id       TEXT,
    tries          BIGINT NOT NULL DEFAULT 0,
    decided_ms     BIGINT,
    UNIQUE (hook_id, delivery_id)
);
CREATE INDEX inbox_pending ON inbox (state, received_ms);

-- A second, different body under a known delivery id: kept for a person, never in place of the first.
CREATE TABLE inbox_collisions (
    id             TEXT PRIMARY KEY,
    first_id       TEXT NOT NULL REFERENCES inbox (id),
    body_digest    TEXT NOT NULL,
    body           BLOB NOT NULL,
    received_ms    BIGINT NOT NULL
);

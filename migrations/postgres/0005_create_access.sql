-- Who may do what, what was asked before, and what was done by whom.
CREATE TABLE api_tokens (
    token_id       TEXT PRIMARY KEY,
    subject        TEXT NOT NULL,
    token_hash     TEXT NOT NULL UNIQUE,
    -- JSON array of viewer | developer | maintainer | approver | deployer | admin | auditor
    roles          TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    expires_ms     BIGINT NOT NULL,
    last_used_ms   BIGINT,
    revoked_ms     BIGINT
);

CREATE TABLE idempotency_keys (
    caller         TEXT NOT NULL,
    idem_key       TEXT NOT NULL,
    request_hash   TEXT NOT NULL,
    -- NULL while the first request is still under way.
    status         BIGINT,
    answer         TEXT,
    location       TEXT,
    created_ms     BIGINT NOT NULL,
    PRIMARY KEY (caller, idem_key)
);

CREATE TABLE audit (
    seq            BIGINT PRIMARY KEY,
    at             BIGINT NOT NULL,
    actor_type     TEXT NOT NULL,
    actor_id       TEXT NOT NULL,
    address        TEXT NOT NULL,
    action         TEXT NOT NULL,
    object_type    TEXT NOT NULL,
    object_id      TEXT NOT NULL,
    detail         TEXT NOT NULL,
    prev_hash      TEXT NOT NULL,
    hash           TEXT NOT NULL
);

-- One row: the end of the chain. Its row lock puts writers in order.
CREATE TABLE audit_head (
    id             BIGINT PRIMARY KEY,
    seq            BIGINT NOT NULL,
    hash           TEXT NOT NULL
);
INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '');

-- Values for stages, sealed with the installation's key; never read back by the API.
CREATE TABLE secrets (
    repo_id        TEXT NOT NULL REFERENCES repositories (repo_id),
    name           TEXT NOT NULL,
    sealed         BYTEA NOT NULL,
    updated_at     BIGINT NOT NULL,
    PRIMARY KEY (repo_id, name)
);

-- Agents and the tokens by which they join.
CREATE TABLE agents (
    agent_id       TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    -- ready | draining | quarantined | gone
    state          TEXT NOT NULL,
    reason         TEXT,
    credential_hash TEXT NOT NULL UNIQUE,
    -- Set by the server from the join token; gate placement.
    labels         TEXT NOT NULL DEFAULT '{}',
    slots          BIGINT NOT NULL DEFAULT 0,
    facts          TEXT NOT NULL DEFAULT '{}',
    boot_id        TEXT,
    connected_ms   BIGINT,
    renewed_ms     BIGINT,
    created_at     BIGINT NOT NULL
);

CREATE TABLE join_tokens (
    token_hash     TEXT PRIMARY KEY,
    labels         TEXT NOT NULL DEFAULT '{}',
    uses_left      BIGINT NOT NULL,
    expires_ms     BIGINT NOT NULL,
    created_at     BIGINT NOT NULL
);

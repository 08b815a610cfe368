-- Pools of agents, their machines, and what they cost.
CREATE TABLE pools (
    pool           TEXT PRIMARY KEY,
    -- JSON, as core::fleet::PoolSettings reads it
    settings       TEXT NOT NULL,
    -- Sealed key of signed calls to a webhook provider.
    signing_key    BYTEA,
    -- Set = it is emptied, and its row goes with its last machine.
    removed_ms     BIGINT,
    updated_at     BIGINT NOT NULL
);

-- A machine is written down before a provider is asked for it. Its agent's id is chosen here.
CREATE TABLE machines (
    agent_id       TEXT PRIMARY KEY,
    pool           TEXT NOT NULL,
    -- The provider's name of it, once known.
    machine        TEXT,
    -- starting | ready | draining | stopping | gone
    state          TEXT NOT NULL,
    created_ms     BIGINT NOT NULL,
    asked_ms       BIGINT,
    ready_ms       BIGINT,
    drain_ms       BIGINT,
    stop_ms        BIGINT,
    gone_ms        BIGINT,
    -- Until when its time is in pool_hours.
    counted_ms     BIGINT NOT NULL,
    error          TEXT
);
CREATE INDEX machines_by_state ON machines (state, pool);

-- Which agent a join token was made for. A machine may be asked for again, with another token.
CREATE TABLE machine_tokens (
    token_hash     TEXT PRIMARY KEY,
    agent_id       TEXT NOT NULL
);
CREATE INDEX machine_tokens_by_agent ON machine_tokens (agent_id);

-- Time of agents by pool and day (days since 1970, UTC).
CREATE TABLE pool_hours (
    pool           TEXT NOT NULL,
    day            BIGINT NOT NULL,
    agent_ms       BIGINT NOT NULL,
    PRIMARY KEY (pool, day)
);

-- One row: whose machines they are, in labels.
CREATE TABLE installation (
    id             BIGINT PRIMARY KEY,
    name           TEXT NOT NULL
);

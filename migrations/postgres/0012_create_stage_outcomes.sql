-- What stages came to, by everything that their containers could see, so that an equal one is recalled.
CREATE TABLE stage_outcomes (
    outcome_id     TEXT PRIMARY KEY,
    stage_key      TEXT NOT NULL,
    repo_id        TEXT NOT NULL REFERENCES repositories (repo_id),
    -- `trusted`, or `outside:` and the ref of a build of code from outside.
    scope          TEXT NOT NULL,
    -- kept | replaced (by a later execution that left the same) | quarantined
    state          TEXT NOT NULL,
    stage_name     TEXT NOT NULL,
    -- One digest per field of the key, JSON.
    fields         TEXT NOT NULL,
    build_id       TEXT NOT NULL,
    stage_id       TEXT NOT NULL,
    attempt        BIGINT NOT NULL,
    agent_id       TEXT NOT NULL,
    output_layer   TEXT,
    -- JSON arrays: kept files and reports.
    artifacts      TEXT NOT NULL,
    reports        TEXT NOT NULL,
    -- Digest over the kept files: two executions of one key must agree on it.
    outputs        TEXT NOT NULL,
    duration       BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    -- A record that nobody used for a week is forgotten.
    used_at        BIGINT NOT NULL
);
-- First write wins.
CREATE UNIQUE INDEX stage_outcomes_kept ON stage_outcomes (repo_id, scope, stage_key) WHERE state = 'kept';
CREATE INDEX stage_outcomes_named ON stage_outcomes (repo_id, stage_name, created_at);
CREATE INDEX stage_outcomes_used ON stage_outcomes (used_at);

-- What planning found out about a stage's inputs, JSON; empty = nothing, so it is executed.
ALTER TABLE build_stages ADD COLUMN inputs TEXT NOT NULL DEFAULT '';
-- '' = executed without a question | ask | asked | recalled
ALTER TABLE build_stages ADD COLUMN memo TEXT NOT NULL DEFAULT '';
ALTER TABLE build_stages ADD COLUMN stage_key TEXT;
ALTER TABLE build_stages ADD COLUMN key_fields TEXT;
-- Why it was recalled or not, a sentence.
ALTER TABLE build_stages ADD COLUMN memo_note TEXT NOT NULL DEFAULT '';
-- The attempt that it was recalled from, JSON.
ALTER TABLE build_stages ADD COLUMN recalled TEXT;

-- Builds, their stages (the queue and the ownership of attempts), and what they left.
CREATE TABLE builds (
    build_id       TEXT PRIMARY KEY,
    repo_id        TEXT NOT NULL REFERENCES repositories (repo_id),
    number         BIGINT NOT NULL,
    pipeline       TEXT NOT NULL,
    commit_sha     TEXT NOT NULL,
    commit_message TEXT NOT NULL,
    author         TEXT NOT NULL,
    ref_name       TEXT NOT NULL,
    branch         TEXT NOT NULL,
    status         TEXT NOT NULL,
    trigger_type   TEXT NOT NULL,
    event          TEXT NOT NULL,
    -- trusted | untrusted
    trust          TEXT NOT NULL,
    -- One build per (repository, key): the host's event id, or a manual request's idempotency key.
    event_key      TEXT,
    -- Newer builds of the same lane end older ones; NULL = never superseded.
    lane           TEXT,
    concurrency_group TEXT,
    concurrency_limit BIGINT NOT NULL DEFAULT 1,
    urgent         BIGINT NOT NULL DEFAULT 0,
    started_at     BIGINT,
    ended_at       BIGINT,
    duration       BIGINT,
    log_url        TEXT,
    docker_image_uri TEXT,
    test_coverage  DOUBLE PRECISION,
    -- JSON array of problems of the pipeline file or of the build itself.
    errors         TEXT NOT NULL DEFAULT '[]',
    variables      TEXT NOT NULL DEFAULT '{}',
    -- The deploy section as planned, JSON; NULL = nothing to deploy.
    deploy         TEXT,
    -- none | due | handed | failed
    handover       TEXT NOT NULL DEFAULT 'none',
    -- Digest of the source workspace, once an attempt captured it.
    source_root    TEXT,
    committed_at   BIGINT,
    superseded_by  TEXT,
    initiator      TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    UNIQUE (repo_id, number),
    UNIQUE (repo_id, event_key)
);
CREATE INDEX builds_repo_status ON builds (repo_id, status);
CREATE INDEX builds_commit ON builds (commit_sha);
CREATE INDEX builds_created ON builds (created_at);
CREATE INDEX builds_handover ON builds (handover);

CREATE TABLE build_stages (
    stage_id       TEXT PRIMARY KEY,
    build_id       TEXT NOT NULL REFERENCES builds (build_id),
    repo_id        TEXT NOT NULL,
    idx            BIGINT NOT NULL,
    stage_name     TEXT NOT NULL,
    -- The stage as planned, JSON; what an agent receives.
    spec           TEXT NOT NULL,
    needs          TEXT NOT NULL,
    runs_on        TEXT NOT NULL,
    failure_ignored BIGINT NOT NULL,
    at_most_once   BIGINT NOT NULL,
    priority       BIGINT NOT NULL,
    labels         TEXT NOT NULL,
    concurrency_group TEXT,
    concurrency_limit BIGINT NOT NULL DEFAULT 1,
    timeout_ms     BIGINT NOT NULL,
    state          TEXT NOT NULL,
    status         TEXT GENERATED ALWAYS AS (
        CASE state
            WHEN 'running' THEN 'running'
            WHEN 'succeeded' THEN 'passed'
            WHEN 'failed' THEN 'failed'
            WHEN 'unknown' THEN 'failed'
            WHEN 'cancelled' THEN 'cancelled'
            WHEN 'superseded' THEN 'cancelled'
            WHEN 'skipped' THEN 'skipped'
            ELSE 'queued'
        END
    ) STORED,
    reason         TEXT,
    -- Ownership: the lease is these columns, so that it changes in one statement with the state.
    attempt        BIGINT NOT NULL DEFAULT 0,
    agent_id       TEXT,
    token_hash     TEXT,
    cancel_ms      BIGINT,
    -- ready_ms: since when it may be given out; not_before_ms: a back-off.
    ready_ms       BIGINT,
    not_before_ms  BIGINT NOT NULL DEFAULT 0,
    assigned_ms    BIGINT,
    started_at     BIGINT,
    ended_at       BIGINT,
    duration       BIGINT,
    result_attempt BIGINT,
    result_digest  TEXT,
    exit_code      BIGINT,
    losses         BIGINT NOT NULL DEFAULT 0,
    failures       BIGINT NOT NULL DEFAULT 0,
    lost_agents    TEXT NOT NULL DEFAULT '[]',
    output_layer   TEXT,
    image_uri      TEXT,
    UNIQUE (build_id, stage_name)
);
CREATE INDEX build_stages_state ON build_stages (state);
CREATE INDEX build_stages_agent ON build_stages (agent_id, state);
CREATE INDEX build_stages_group ON build_stages (concurrency_group, state);

CREATE TABLE attempts (
    stage_id       TEXT NOT NULL REFERENCES build_stages (stage_id),
    attempt        BIGINT NOT NULL,
    agent_id       TEXT NOT NULL,
    assigned_ms    BIGINT NOT NULL,
    started_ms     BIGINT,
    ended_ms       BIGINT,
    outcome        TEXT,
    reason         TEXT,
    detail         TEXT,
    exit_code      BIGINT,
    prepare_ms     BIGINT,
    execute_ms     BIGINT,
    collect_ms     BIGINT,
    log_length     BIGINT NOT NULL DEFAULT 0,
    log_lines      BIGINT NOT NULL DEFAULT 0,
    log_digest     TEXT,
    log_sealed     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (stage_id, attempt)
);

CREATE TABLE artifacts (
    artifact_id    TEXT PRIMARY KEY,
    build_id       TEXT NOT NULL REFERENCES builds (build_id),
    stage_id       TEXT NOT NULL,
    name           TEXT NOT NULL,
    artifact_type  TEXT NOT NULL,
    uri            TEXT NOT NULL,
    file_size      BIGINT NOT NULL,
    checksum       TEXT NOT NULL,
    created_at     BIGINT NOT NULL
);
CREATE INDEX artifacts_build ON artifacts (build_id);

CREATE TABLE reports (
    stage_id       TEXT NOT NULL REFERENCES build_stages (stage_id),
    path           TEXT NOT NULL,
    build_id       TEXT NOT NULL,
    -- junit | coverage
    kind           TEXT NOT NULL,
    -- present | missing | invalid
    state          TEXT NOT NULL,
    total          BIGINT NOT NULL DEFAULT 0,
    passed         BIGINT NOT NULL DEFAULT 0,
    failed         BIGINT NOT NULL DEFAULT 0,
    skipped        BIGINT NOT NULL DEFAULT 0,
    flaky          BIGINT NOT NULL DEFAULT 0,
    duration_ms    BIGINT NOT NULL DEFAULT 0,
    lines_covered  BIGINT NOT NULL DEFAULT 0,
    lines_valid    BIGINT NOT NULL DEFAULT 0,
    failures       TEXT NOT NULL DEFAULT '[]',
    problem        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (stage_id, path)
);
CREATE INDEX reports_build ON reports (build_id);

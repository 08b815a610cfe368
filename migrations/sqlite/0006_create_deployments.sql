-- Rollouts. Written by the coordinator alone.
CREATE TABLE services (
    service_id     TEXT PRIMARY KEY,
    repo_id        TEXT NOT NULL,
    name           TEXT NOT NULL UNIQUE,
    created_at     BIGINT NOT NULL
);

CREATE TABLE environments (
    environment_id TEXT PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    -- Which target serves it, and its address; JSON.
    target         TEXT NOT NULL,
    -- Server-side policy (approval required, approver not initiator …), JSON.
    policy         TEXT NOT NULL,
    created_at     BIGINT NOT NULL
);

-- The fencing tokens and the generations of changes: one sequence of each per service and
-- environment.
CREATE TABLE deploy_tokens (
    service_id     TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    token          BIGINT NOT NULL,
    gen            BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (service_id, environment_id)
);

CREATE TABLE deployments (
    deployment_id  TEXT PRIMARY KEY,
    build_id       TEXT NOT NULL,
    initiator_id   TEXT NOT NULL,
    service_id     TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    target_environment TEXT NOT NULL,
    strategy       TEXT NOT NULL,
    source_version TEXT,
    target_version TEXT NOT NULL,
    status         TEXT NOT NULL,
    canary_percentage DOUBLE PRECISION NOT NULL DEFAULT 0,
    approval_status TEXT NOT NULL,
    approver_id    TEXT,
    approved_at    BIGINT,
    started_at     BIGINT,
    ended_at       BIGINT,
    created_at     BIGINT NOT NULL,
    -- The engine's columns.
    kind           TEXT NOT NULL,
    phase          TEXT NOT NULL,
    step_idx       BIGINT NOT NULL DEFAULT 0,
    plan_json      TEXT NOT NULL,
    plan_hash      TEXT NOT NULL,
    state_json     TEXT NOT NULL DEFAULT '{}',
    token          BIGINT NOT NULL DEFAULT 0,
    row_version    BIGINT NOT NULL DEFAULT 0,
    owner_id       TEXT,
    owner_expires_at BIGINT,
    pause_reason   TEXT,
    pause_deadline_at BIGINT,
    progress       BIGINT NOT NULL DEFAULT 0,
    reason         TEXT,
    wish           TEXT,
    superseded_by  TEXT,
    idem_key       TEXT UNIQUE
);
CREATE INDEX deployments_status ON deployments (status, created_at DESC);
CREATE INDEX deployments_place ON deployments (service_id, environment_id, created_at);

CREATE TABLE deployment_steps (
    deployment_id  TEXT NOT NULL REFERENCES deployments (deployment_id),
    idx            BIGINT NOT NULL,
    attempt        BIGINT NOT NULL,
    kind           TEXT NOT NULL,
    desired_json   TEXT NOT NULL,
    -- pending | intent | applied | verified | undone
    status         TEXT NOT NULL,
    token          BIGINT NOT NULL,
    gen            BIGINT NOT NULL,
    idem_key       TEXT NOT NULL,
    intent_at      BIGINT,
    applied_at     BIGINT,
    verified_at    BIGINT,
    deadline_at    BIGINT,
    evidence_json  TEXT,
    PRIMARY KEY (deployment_id, idx, attempt)
);

CREATE TABLE deployment_events (
    deployment_id  TEXT NOT NULL REFERENCES deployments (deployment_id),
    seq            BIGINT NOT NULL,
    at             BIGINT NOT NULL,
    kind           TEXT NOT NULL,
    json           TEXT NOT NULL,
    PRIMARY KEY (deployment_id, seq)
);

CREATE TABLE deployment_health (
    health_id      TEXT PRIMARY KEY,
    deployment_id  TEXT NOT NULL REFERENCES deployments (deployment_id),
    metric_name    TEXT NOT NULL,
    baseline_value DOUBLE PRECISION,
    current_value  DOUBLE PRECISION,
    threshold_alert BIGINT NOT NULL,
    checked_at     BIGINT NOT NULL,
    step_idx       BIGINT NOT NULL,
    verdict        TEXT NOT NULL,
    evidence_json  TEXT NOT NULL,
    rule_version   TEXT NOT NULL
);
CREATE INDEX deployment_health_by_deployment ON deployment_health (deployment_id, checked_at);

CREATE TABLE gate_ticks (
    deployment_id  TEXT NOT NULL REFERENCES deployments (deployment_id),
    step_idx       BIGINT NOT NULL,
    seq            BIGINT NOT NULL,
    source         TEXT NOT NULL,
    boot_id        TEXT NOT NULL,
    t0             BIGINT NOT NULL,
    t1             BIGINT NOT NULL,
    counters_json  TEXT NOT NULL,
    PRIMARY KEY (deployment_id, step_idx, seq, source)
);

CREATE TABLE deploy_locks (
    service_id     TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    holder         TEXT NOT NULL,
    token          BIGINT NOT NULL,
    acquired_at    BIGINT NOT NULL,
    heartbeat_at   BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    PRIMARY KEY (service_id, environment_id)
);

CREATE TABLE lock_waiters (
    service_id     TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    deployment_id  TEXT NOT NULL,
    enqueued_at    BIGINT NOT NULL,
    deadline_at    BIGINT NOT NULL,
    policy         TEXT NOT NULL,
    -- 1 = a rollback, goes first
    head           BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (service_id, environment_id, deployment_id)
);

CREATE TABLE approvals (
    deployment_id  TEXT NOT NULL REFERENCES deployments (deployment_id),
    approver_id    TEXT NOT NULL,
    plan_hash      TEXT NOT NULL,
    asked_at       BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    method         TEXT NOT NULL,
    decision       TEXT NOT NULL,
    reason         TEXT NOT NULL,
    rule_version   TEXT NOT NULL,
    decided_at     BIGINT NOT NULL,
    PRIMARY KEY (deployment_id, plan_hash, approver_id)
);

CREATE TABLE versions (
    version_id     TEXT PRIMARY KEY,
    service_id     TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    image          TEXT NOT NULL,
    digest         TEXT NOT NULL,
    config_hash    TEXT NOT NULL,
    config_json    TEXT NOT NULL,
    build_id       TEXT NOT NULL,
    -- warm | stopped | gone
    state          TEXT NOT NULL,
    last_good_at   BIGINT,
    retire_at      BIGINT,
    pinned         BIGINT NOT NULL DEFAULT 0,
    created_at     BIGINT NOT NULL
);
CREATE INDEX versions_place ON versions (service_id, environment_id, last_good_at);

CREATE TABLE routers (
    router_id      TEXT NOT NULL,
    service_id     TEXT NOT NULL,
    seen_token     BIGINT NOT NULL,
    applied_gen    BIGINT NOT NULL,
    table_hash     TEXT NOT NULL,
    tripped        BIGINT NOT NULL DEFAULT 0,
    seen_at        BIGINT NOT NULL,
    PRIMARY KEY (router_id, service_id)
);

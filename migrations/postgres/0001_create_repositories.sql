-- Repositories, their webhook endpoints, the last seen heads and their schedules.
CREATE TABLE repositories (
    repo_id        TEXT PRIMARY KEY,
    repo_url       TEXT NOT NULL UNIQUE,
    name           TEXT NOT NULL,
    branch         TEXT NOT NULL DEFAULT 'main',
    weight         BIGINT NOT NULL DEFAULT 1,
    next_number    BIGINT NOT NULL DEFAULT 1,
    -- The reconciler compares remote refs with ref_heads; NULL = never compared.
    reconciled_ms  BIGINT,
    created_at     BIGINT NOT NULL
);

CREATE TABLE hooks (
    hook_id        TEXT PRIMARY KEY,
    repo_id        TEXT NOT NULL REFERENCES repositories (repo_id),
    -- github | gitlab_token | gitlab_signed | gitea | forgejo | bitbucket_cloud | bitbucket_dc | generic
    scheme         TEXT NOT NULL,
    -- Sealed with the installation's key; never read back by the API.
    webhook_secret BYTEA NOT NULL,
    previous_secret BYTEA,
    previous_until_ms BIGINT,
    -- The code host's immutable id of the repository, when it was bound.
    host_repo_id   TEXT,
    created_at     BIGINT NOT NULL
);

CREATE TABLE ref_heads (
    repo_id        TEXT NOT NULL REFERENCES repositories (repo_id),
    ref_name       TEXT NOT NULL,
    sha            TEXT NOT NULL,
    seen_ms        BIGINT NOT NULL,
    PRIMARY KEY (repo_id, ref_name)
);

CREATE TABLE schedules (
    repo_id        TEXT NOT NULL REFERENCES repositories (repo_id),
    name           TEXT NOT NULL,
    schedule       TEXT NOT NULL,
    next_ms        BIGINT NOT NULL,
    PRIMARY KEY (repo_id, name)
);

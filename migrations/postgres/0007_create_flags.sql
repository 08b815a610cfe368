CREATE TABLE feature_flags (
    flag_id        TEXT PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    enabled        BIGINT NOT NULL,
    -- Of 100 000, so that 0.001 % is a whole number.
    rollout_percentage BIGINT NOT NULL,
    target_users   TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);

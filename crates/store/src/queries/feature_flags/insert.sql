INSERT INTO feature_flags (flag_id, name, enabled, rollout_percentage, target_users, created_at,
    updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $6)

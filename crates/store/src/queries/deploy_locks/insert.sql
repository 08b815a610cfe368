INSERT INTO deploy_locks (service_id, environment_id, holder, token, acquired_at, heartbeat_at,
    expires_at)
VALUES ($1, $2, $3, $4, $5, $5, $6)

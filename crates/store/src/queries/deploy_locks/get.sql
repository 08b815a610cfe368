SELECT holder, token, acquired_at, heartbeat_at, expires_at FROM deploy_locks
 WHERE service_id = $1 AND environment_id = $2

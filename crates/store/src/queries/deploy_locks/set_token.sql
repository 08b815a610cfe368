UPDATE deploy_locks SET token = $2, heartbeat_at = $3, expires_at = $4 WHERE holder = $1

UPDATE deployments SET status = 'rolled_back', reason = $4, superseded_by = $5
 WHERE service_id = $1 AND environment_id = $2 AND target_version = $3 AND status = 'completed'

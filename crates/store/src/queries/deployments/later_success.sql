SELECT deployment_id AS value FROM deployments
 WHERE service_id = $1 AND environment_id = $2 AND status = 'completed' AND ended_at > $3
 ORDER BY ended_at DESC LIMIT 1

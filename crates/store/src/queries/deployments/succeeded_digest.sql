SELECT d.deployment_id AS value FROM deployments d
  JOIN versions v ON v.version_id = d.target_version
 WHERE d.service_id = $1 AND d.target_environment = $2 AND v.digest = $3 AND d.status = 'completed'
 ORDER BY d.ended_at DESC LIMIT 1

SELECT deployment_id AS value FROM deployments
 WHERE deployment_id = $1 AND status = 'in_progress'
   AND (owner_id IS NULL OR owner_id = $2 OR owner_expires_at <= $3)

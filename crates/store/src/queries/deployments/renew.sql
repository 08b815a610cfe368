UPDATE deployments SET owner_expires_at = $3
 WHERE owner_id = $1 AND status = 'in_progress' AND owner_expires_at > $2

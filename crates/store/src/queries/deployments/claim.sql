-- Whoever owns it may claim it again: a restart on the same node.
UPDATE deployments
   SET owner_id = $2, owner_expires_at = $4, token = $5, row_version = row_version + 1
 WHERE deployment_id = $1 AND status = 'in_progress'
   AND (owner_id IS NULL OR owner_id = $2 OR owner_expires_at <= $3)

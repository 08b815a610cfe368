-- Only for deployments that this owner still owns, under the token that it was given.
UPDATE deploy_locks SET heartbeat_at = $2, expires_at = $3
 WHERE EXISTS (SELECT 1 FROM deployments d
                WHERE d.deployment_id = deploy_locks.holder AND d.token = deploy_locks.token
                  AND d.owner_id = $1 AND d.owner_expires_at > $2 AND d.status = 'in_progress')

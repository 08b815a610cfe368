DELETE FROM deploy_locks
 WHERE holder IN (SELECT deployment_id FROM deployments WHERE status <> 'in_progress')

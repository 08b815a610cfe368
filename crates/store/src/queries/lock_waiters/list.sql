SELECT w.deployment_id, w.enqueued_at, w.head FROM lock_waiters w
  JOIN deployments d ON d.deployment_id = w.deployment_id AND d.status = 'in_progress'
 WHERE w.service_id = $1 AND w.environment_id = $2

INSERT INTO lock_waiters (service_id, environment_id, deployment_id, enqueued_at, deadline_at,
    policy, head)
VALUES ($1, $2, $3, $4, $5, 'queue', $6)
ON CONFLICT (service_id, environment_id, deployment_id) DO NOTHING

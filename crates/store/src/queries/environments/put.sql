INSERT INTO environments (environment_id, name, target, policy, created_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET target = excluded.target, policy = excluded.policy

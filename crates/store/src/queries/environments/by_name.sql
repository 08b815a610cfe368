SELECT environment_id, name, target, policy, created_at FROM environments WHERE name = $1

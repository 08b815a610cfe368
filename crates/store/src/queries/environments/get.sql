SELECT environment_id, name, target, policy, created_at FROM environments WHERE environment_id = $1

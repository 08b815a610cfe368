INSERT INTO schedules (repo_id, name, schedule, next_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (repo_id, name) DO UPDATE SET schedule = $3, next_ms = $4

SELECT repo_id, name, schedule, next_ms FROM schedules WHERE repo_id = $1 ORDER BY name

SELECT repo_id, name, schedule, next_ms FROM schedules WHERE next_ms <= $1 ORDER BY next_ms

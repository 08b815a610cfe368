UPDATE schedules SET next_ms = $4 WHERE repo_id = $1 AND name = $2 AND next_ms = $3

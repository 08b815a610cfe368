DELETE FROM schedules WHERE repo_id = $1

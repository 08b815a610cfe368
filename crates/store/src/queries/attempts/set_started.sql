UPDATE attempts SET started_ms = $3 WHERE stage_id = $1 AND attempt = $2 AND started_ms IS NULL

UPDATE attempts SET log_length = $3, log_lines = $4, log_digest = $5, log_sealed = $6
 WHERE stage_id = $1 AND attempt = $2

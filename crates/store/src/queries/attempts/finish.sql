UPDATE attempts
   SET ended_ms = $3, outcome = $4, reason = $5, detail = $6, exit_code = $7, prepare_ms = $8,
       execute_ms = $9, collect_ms = $10, moved_bytes = $11, reused_bytes = $12
 WHERE stage_id = $1 AND attempt = $2

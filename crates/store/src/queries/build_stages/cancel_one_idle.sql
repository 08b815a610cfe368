UPDATE build_stages SET state = 'cancelled', cancel_ms = $2, ended_at = $2, reason = $3
 WHERE stage_id = $1 AND state IN ('waiting', 'ready')

UPDATE build_stages SET state = $3, cancel_ms = $2, ended_at = $2, reason = $4
 WHERE build_id = $1 AND state IN ('waiting', 'ready')

UPDATE build_stages SET state = 'ready', ready_ms = $2 WHERE stage_id = $1 AND state = 'waiting'

UPDATE build_stages SET state = $2, reason = $3 WHERE stage_id = $1 AND state = 'unknown'
RETURNING build_id, state

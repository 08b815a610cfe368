UPDATE build_stages SET state = 'ready', agent_id = NULL, token_hash = NULL
 WHERE stage_id = $1 AND attempt = $2 AND state = 'assigned' AND cancel_ms IS NULL

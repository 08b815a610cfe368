UPDATE machines SET state = 'ready', ready_ms = $2, error = NULL WHERE agent_id = $1 AND state = 'starting'

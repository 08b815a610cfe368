UPDATE machines SET asked_ms = $2 WHERE agent_id = $1 AND state = 'starting'

UPDATE machines SET state = 'draining', drain_ms = $2 WHERE agent_id = $1 AND state = 'ready'

UPDATE machines SET state = 'gone', gone_ms = $2 WHERE agent_id = $1 AND state = 'stopping'

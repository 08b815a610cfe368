UPDATE agents SET state = 'ready', reason = NULL, resumed_ms = $2
 WHERE agent_id = $1 AND state IN ('quarantined', 'draining')

UPDATE agents SET state = 'quarantined', reason = $2
 WHERE agent_id = $1 AND state IN ('ready', 'draining')

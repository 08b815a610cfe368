UPDATE agents SET state = $2, reason = $3 WHERE agent_id = $1 AND state <> 'gone'

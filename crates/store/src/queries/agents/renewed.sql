UPDATE agents SET renewed_ms = $2 WHERE agent_id = $1

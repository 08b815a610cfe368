UPDATE agents SET state = state WHERE agent_id = $1

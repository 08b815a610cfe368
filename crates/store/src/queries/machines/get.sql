SELECT * FROM machines WHERE agent_id = $1

DELETE FROM machine_tokens WHERE agent_id = $1

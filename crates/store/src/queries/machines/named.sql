UPDATE machines SET machine = $2, error = NULL WHERE agent_id = $1 AND state <> 'gone'

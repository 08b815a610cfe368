UPDATE machines SET error = $2 WHERE agent_id = $1 AND state <> 'gone'

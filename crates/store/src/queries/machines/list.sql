SELECT * FROM machines WHERE state <> 'gone' ORDER BY created_ms, agent_id

SELECT * FROM agents WHERE state <> 'gone' ORDER BY agent_id

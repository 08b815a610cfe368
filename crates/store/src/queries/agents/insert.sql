INSERT INTO agents (agent_id, name, state, labels, created_at)
VALUES ($1, $2, 'ready', $3, $4)

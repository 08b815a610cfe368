INSERT INTO agents (agent_id, name, state, credential_hash, labels, created_at)
VALUES ($1, $2, 'ready', $3, $4, $5)

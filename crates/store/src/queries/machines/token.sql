INSERT INTO machine_tokens (token_hash, agent_id) VALUES ($1, $2)

INSERT INTO attempts (stage_id, attempt, agent_id, assigned_ms) VALUES ($1, $2, $3, $4)

INSERT INTO pool_hours (pool, day, agent_ms) VALUES ($1, $2, $3)
ON CONFLICT (pool, day) DO UPDATE SET agent_ms = pool_hours.agent_ms + excluded.agent_ms

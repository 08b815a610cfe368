INSERT INTO machines (agent_id, pool, state, created_ms, counted_ms, ready_ms)
VALUES ($1, $2, $3, $4, $4, $5) ON CONFLICT (agent_id) DO NOTHING

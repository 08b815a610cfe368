SELECT pool, agent_ms FROM pool_hours WHERE day = $1

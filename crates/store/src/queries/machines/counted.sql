UPDATE machines SET counted_ms = $2 WHERE agent_id = $1 AND counted_ms = $3

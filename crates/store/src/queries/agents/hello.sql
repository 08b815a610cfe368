UPDATE agents SET boot_id = $2, slots = $3, facts = $4, connected_ms = $5, renewed_ms = $5
 WHERE agent_id = $1 AND state <> 'gone'

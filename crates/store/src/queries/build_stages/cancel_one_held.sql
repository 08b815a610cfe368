UPDATE build_stages SET cancel_ms = $2, reason = $3
 WHERE stage_id = $1 AND state IN ('assigned', 'running') AND cancel_ms IS NULL
RETURNING stage_id, attempt, agent_id

UPDATE build_stages SET state = 'running', started_at = COALESCE(started_at, $4)
 WHERE stage_id = $1 AND attempt = $2 AND agent_id = $3 AND state IN ('assigned', 'running')
   AND cancel_ms IS NULL

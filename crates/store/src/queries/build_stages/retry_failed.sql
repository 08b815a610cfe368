UPDATE build_stages
   SET state = 'ready', failures = failures + 1, agent_id = NULL, token_hash = NULL,
       result_attempt = $2, result_digest = $4, ready_ms = $5, reason = $6
 WHERE stage_id = $1 AND attempt = $2 AND agent_id = $3 AND state IN ('assigned', 'running')
   AND cancel_ms IS NULL
RETURNING build_id, state

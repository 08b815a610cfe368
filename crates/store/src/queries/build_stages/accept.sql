UPDATE build_stages
   SET state = CASE WHEN cancel_ms IS NULL THEN $1 ELSE 'cancelled' END,
       reason = CASE WHEN cancel_ms IS NULL THEN $7 ELSE 'cancelled' END,
       result_attempt = $2, result_digest = $6, ended_at = $3, exit_code = $8,
       output_layer = $9, image_uri = $10,
       duration = $3 - COALESCE(started_at, assigned_ms, $3),
       started_at = COALESCE(started_at, assigned_ms, $3)
 WHERE stage_id = $4 AND attempt = $2 AND agent_id = $5
   AND state IN ('assigned', 'running', 'unknown')
RETURNING build_id, state, CASE WHEN failures = 0 THEN stage_key END AS stage_key

UPDATE build_stages
   SET state = CASE WHEN cancel_ms IS NOT NULL THEN 'cancelled' ELSE $3 END,
       reason = CASE WHEN cancel_ms IS NOT NULL THEN 'cancelled' ELSE $4 END,
       agent_id = CASE WHEN $3 = 'ready' THEN NULL ELSE agent_id END,
       losses = losses + 1, lost_agents = $5, not_before_ms = $6, ready_ms = $7,
       ended_at = CASE WHEN $3 = 'ready' AND cancel_ms IS NULL THEN NULL ELSE CAST($7 AS BIGINT) END
 WHERE stage_id = $1 AND attempt = $2 AND state IN ('assigned', 'running')
RETURNING build_id, state

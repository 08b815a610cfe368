-- The same as accept.sql and attempts/finish.sql in one round trip: SQLite has none to save.
WITH accepted AS (
    UPDATE build_stages
       SET state = CASE WHEN cancel_ms IS NULL THEN $1 ELSE 'cancelled' END,
           reason = CASE WHEN cancel_ms IS NULL THEN $7 ELSE 'cancelled' END,
           result_attempt = $2, result_digest = $6, ended_at = $3, exit_code = $8,
           output_layer = $9, image_uri = $10,
           duration = $3 - COALESCE(started_at, assigned_ms, $3),
           started_at = COALESCE(started_at, assigned_ms, $3)
     WHERE stage_id = $4 AND attempt = $2 AND agent_id = $5
       AND state IN ('assigned', 'running', 'unknown')
    RETURNING build_id, state, CASE WHEN failures = 0 THEN stage_key END AS stage_key),
noted AS (
    UPDATE attempts
       SET ended_ms = $3, outcome = accepted.state, reason = $7, detail = $11, exit_code = $8,
           prepare_ms = $12, execute_ms = $13, collect_ms = $14
      FROM accepted
     WHERE attempts.stage_id = $4 AND attempts.attempt = $2)
SELECT build_id, state, stage_key FROM accepted

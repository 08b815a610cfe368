-- The same as accept.sql and attempts/finish.sql for many results, one per stage, in one round trip: SQLite
-- has none to save. The array keeps the plan at the primary key, whatever the statistics say.
WITH given AS (
    SELECT * FROM json_to_recordset($1::json) AS g(
        stage_id TEXT, attempt BIGINT, agent_id TEXT, state TEXT, digest TEXT, now BIGINT, reason TEXT,
        exit_code BIGINT, output_layer TEXT, image_uri TEXT, detail TEXT,
        prepare_ms BIGINT, execute_ms BIGINT, collect_ms BIGINT, moved_bytes BIGINT,
        reused_bytes BIGINT)),
accepted AS (
    UPDATE build_stages s
       SET state = CASE WHEN cancel_ms IS NULL THEN g.state ELSE 'cancelled' END,
           reason = CASE WHEN cancel_ms IS NULL THEN g.reason ELSE 'cancelled' END,
           result_attempt = g.attempt, result_digest = g.digest, ended_at = g.now,
           exit_code = g.exit_code, output_layer = g.output_layer, image_uri = g.image_uri,
           duration = g.now - COALESCE(started_at, assigned_ms, g.now),
           started_at = COALESCE(started_at, assigned_ms, g.now)
      FROM given g
     WHERE s.stage_id = ANY (ARRAY(SELECT stage_id FROM given))
       AND s.stage_id = g.stage_id AND s.attempt = g.attempt AND s.agent_id = g.agent_id
       AND s.state IN ('assigned', 'running', 'unknown')
    RETURNING s.stage_id, s.build_id, s.state,
              CASE WHEN s.failures = 0 THEN s.stage_key END AS stage_key),
noted AS (
    UPDATE attempts a
       SET ended_ms = g.now, outcome = accepted.state, reason = g.reason, detail = g.detail,
           exit_code = g.exit_code, prepare_ms = g.prepare_ms, execute_ms = g.execute_ms,
           collect_ms = g.collect_ms, moved_bytes = g.moved_bytes, reused_bytes = g.reused_bytes
      FROM accepted JOIN given g ON g.stage_id = accepted.stage_id
     WHERE a.stage_id = ANY (ARRAY(SELECT stage_id FROM given))
       AND a.stage_id = g.stage_id AND a.attempt = g.attempt)
SELECT stage_id, build_id, state, stage_key FROM accepted

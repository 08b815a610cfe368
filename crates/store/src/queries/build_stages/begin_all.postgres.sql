-- The same as mark_running.sql, attempts/set_started.sql and builds/begin.sql for many attempts, one per
-- stage, in one round trip: SQLite has none to save.
WITH given AS (
    SELECT * FROM json_to_recordset($1::json) AS g(
        stage_id TEXT, attempt BIGINT, agent_id TEXT, now BIGINT)),
running AS (
    UPDATE build_stages s
       SET state = 'running', started_at = COALESCE(started_at, g.now)
      FROM given g
     WHERE s.stage_id = ANY (ARRAY(SELECT stage_id FROM given))
       AND s.stage_id = g.stage_id AND s.attempt = g.attempt AND s.agent_id = g.agent_id
       AND s.state IN ('assigned', 'running') AND s.cancel_ms IS NULL
    RETURNING s.stage_id, s.attempt, s.build_id, g.now),
noted AS (
    UPDATE attempts a SET started_ms = running.now
      FROM running
     WHERE a.stage_id = ANY (ARRAY(SELECT stage_id FROM given))
       AND a.stage_id = running.stage_id AND a.attempt = running.attempt AND a.started_ms IS NULL),
begun AS (
    UPDATE builds b SET status = 'building', started_at = COALESCE(b.started_at, first.now)
      FROM (SELECT build_id, MIN(now) AS now FROM running GROUP BY build_id) first
     WHERE b.build_id = ANY (ARRAY(SELECT build_id FROM running))
       AND b.build_id = first.build_id AND b.status = 'queued')
SELECT stage_id FROM running

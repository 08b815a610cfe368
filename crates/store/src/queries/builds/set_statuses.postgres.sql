-- The same as set_status.sql for many builds in one round trip: SQLite has none to save.
UPDATE builds b SET status = g.status,
       started_at = CASE WHEN b.started_at IS NULL AND g.status <> 'queued' THEN g.now
                         ELSE b.started_at END,
       ended_at = CASE WHEN g.final = 1 THEN COALESCE(b.ended_at, g.now) ELSE NULL END,
       duration = CASE WHEN g.final = 1
                       THEN COALESCE(b.ended_at, g.now) - COALESCE(b.started_at, g.now) ELSE NULL END,
       handover = CASE WHEN g.status = 'passed' AND b.deploy IS NOT NULL AND b.handover = 'none'
                       THEN 'due' ELSE b.handover END
  FROM json_to_recordset($1::json) AS g(build_id TEXT, status TEXT, now BIGINT, final BIGINT)
 WHERE b.build_id = g.build_id

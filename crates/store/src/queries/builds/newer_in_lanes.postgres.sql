-- Of these builds those that find an older one in their lane (older_in_lane.sql), in one round trip: SQLite
-- has none to save.
SELECT DISTINCT n.build_id FROM json_to_recordset($1::json) AS n(build_id TEXT, repo_id TEXT, lane TEXT)
  JOIN builds b ON b.repo_id = n.repo_id AND b.lane = n.lane
 WHERE b.build_id < n.build_id AND b.status IN ('queued', 'building')

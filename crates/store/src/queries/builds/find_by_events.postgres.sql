-- The same as find_by_event.sql for many events in one round trip: SQLite has none to save.
SELECT b.repo_id, b.event_key, b.build_id FROM builds b
  JOIN json_to_recordset($1::json) AS e(repo_id TEXT, event_key TEXT)
    ON b.repo_id = e.repo_id AND b.event_key = e.event_key

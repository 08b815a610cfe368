-- The same as put.sql for many refs in one round trip: SQLite has none to save.
INSERT INTO ref_heads (repo_id, ref_name, sha, seen_ms)
SELECT * FROM json_to_recordset($1::json) AS g(repo_id TEXT, ref_name TEXT, sha TEXT, seen_ms BIGINT)
 ORDER BY repo_id, ref_name
ON CONFLICT (repo_id, ref_name) DO UPDATE SET sha = EXCLUDED.sha, seen_ms = EXCLUDED.seen_ms

-- The same as take_number.sql for many repositories, in one round trip and always in one order: SQLite has
-- one writer, and none to save.
WITH wanted AS (
    SELECT repo_id, count FROM json_to_recordset($1::json) AS w(repo_id TEXT, count BIGINT)
), locked AS (
    SELECT r.repo_id FROM repositories r JOIN wanted w ON w.repo_id = r.repo_id
     ORDER BY r.repo_id FOR NO KEY UPDATE OF r
)
UPDATE repositories r SET next_number = r.next_number + w.count
  FROM wanted w JOIN locked l ON l.repo_id = w.repo_id
 WHERE r.repo_id = w.repo_id
RETURNING r.repo_id, r.next_number - w.count AS number

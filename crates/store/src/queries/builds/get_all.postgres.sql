-- The same as get.sql for many builds in one round trip: SQLite has none to save.
SELECT b.*, r.repo_url, r.name AS repo_name FROM builds b
  JOIN repositories r ON r.repo_id = b.repo_id
 WHERE b.build_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))

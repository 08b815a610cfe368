-- The same as lock.sql for many builds in one round trip, always in one order: SQLite has one writer.
SELECT build_id, status FROM builds
 WHERE build_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))
 ORDER BY build_id FOR NO KEY UPDATE

-- The same as get.sql for many stages in one round trip: SQLite has none to save.
SELECT * FROM build_stages
 WHERE stage_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))

-- The same as set_ready.sql for many stages in one round trip: SQLite has none to save.
UPDATE build_stages SET state = 'ready', ready_ms = $2
 WHERE stage_id = ANY (ARRAY(SELECT json_array_elements_text($1::json))) AND state = 'waiting'

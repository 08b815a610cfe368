-- The same as layers.sql for many builds in one round trip: SQLite has none to save.
SELECT build_id, stage_name, needs, output_layer FROM build_stages
 WHERE build_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))
 ORDER BY build_id, idx

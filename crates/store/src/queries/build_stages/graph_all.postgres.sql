-- The same as graph.sql for many builds in one round trip: SQLite has none to save.
WITH undecided AS (
    SELECT DISTINCT build_id FROM build_stages
     WHERE build_id = ANY (ARRAY(SELECT json_array_elements_text($1::json))) AND state = 'waiting')
SELECT s.build_id, MIN(s.stage_id) AS stage_id, MIN(s.stage_name) AS stage_name,
       MIN(s.state) AS state, MIN(s.needs) AS needs, MIN(s.failure_ignored) AS failure_ignored,
       MIN(s.runs_on) AS runs_on
  FROM build_stages s LEFT JOIN undecided ON undecided.build_id = s.build_id
 WHERE s.build_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))
 GROUP BY s.build_id, CASE WHEN undecided.build_id IS NOT NULL
                           THEN s.stage_id ELSE s.state || s.failure_ignored END
 ORDER BY s.build_id, MIN(s.idx)

SELECT a.* FROM attempts a JOIN build_stages s ON s.stage_id = a.stage_id
 WHERE s.build_id = $1 ORDER BY s.idx, a.attempt

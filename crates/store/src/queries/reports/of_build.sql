SELECT * FROM reports WHERE build_id = $1 ORDER BY stage_id, path

SELECT * FROM artifacts WHERE build_id = $1 ORDER BY artifact_id

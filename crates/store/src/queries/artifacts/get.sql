SELECT * FROM artifacts WHERE artifact_id = $1

SELECT * FROM attempts WHERE stage_id = $1 ORDER BY attempt

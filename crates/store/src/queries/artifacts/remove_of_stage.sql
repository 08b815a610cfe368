DELETE FROM artifacts WHERE stage_id = $1

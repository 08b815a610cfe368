UPDATE builds SET status = status WHERE build_id = $1 RETURNING status

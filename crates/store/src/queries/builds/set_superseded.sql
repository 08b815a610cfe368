UPDATE builds SET superseded_by = $2 WHERE build_id = $1 AND superseded_by IS NULL

UPDATE builds SET source_root = $2 WHERE build_id = $1 AND source_root IS NULL

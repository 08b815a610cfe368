SELECT * FROM feature_flags ORDER BY name LIMIT $1

DELETE FROM feature_flags WHERE flag_id = $1

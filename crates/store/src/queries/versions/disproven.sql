UPDATE versions SET last_good_at = NULL WHERE version_id = $1

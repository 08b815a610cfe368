UPDATE versions SET last_good_at = $2, retire_at = NULL, state = 'warm' WHERE version_id = $1

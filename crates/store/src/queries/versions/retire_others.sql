UPDATE versions SET retire_at = $4
 WHERE service_id = $1 AND environment_id = $2 AND version_id <> $3 AND state = 'warm'
   AND retire_at IS NULL

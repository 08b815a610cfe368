UPDATE versions SET state = 'warm', retire_at = NULL
 WHERE version_id = $1 AND state IN ('stopped', 'gone')

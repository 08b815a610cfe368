UPDATE versions SET state = 'stopped', retire_at = COALESCE(retire_at, $2)
 WHERE version_id = $1 AND (retire_at <= $2 OR state = 'gone')
   AND NOT EXISTS (SELECT 1 FROM deploy_locks l
                    WHERE l.service_id = versions.service_id
                      AND l.environment_id = versions.environment_id)

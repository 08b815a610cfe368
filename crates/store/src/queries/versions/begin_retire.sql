UPDATE versions SET state = 'stopped'
 WHERE version_id = $1 AND retire_at <= $2
   AND NOT EXISTS (SELECT 1 FROM deploy_locks l
                    WHERE l.service_id = versions.service_id
                      AND l.environment_id = versions.environment_id)

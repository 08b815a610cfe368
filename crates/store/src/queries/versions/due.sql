-- Not while a rollout holds the place: it may need the old version.
SELECT version_id, service_id, environment_id, image, digest, config_hash, config_json, build_id, state,
       last_good_at, retire_at, pinned, created_at
  FROM versions v
 WHERE v.retire_at <= $1 AND v.state IN ('warm', 'stopped')
   AND NOT EXISTS (SELECT 1 FROM deploy_locks l
                    WHERE l.service_id = v.service_id AND l.environment_id = v.environment_id)
 ORDER BY v.retire_at LIMIT 20

-- The best first: the one that was good last.
SELECT version_id, service_id, environment_id, image, digest, config_hash, config_json, build_id, state,
       last_good_at, retire_at, pinned, created_at
  FROM versions WHERE service_id = $1 AND environment_id = $2
 ORDER BY CASE WHEN last_good_at IS NULL THEN 1 ELSE 0 END, last_good_at DESC, version_id DESC

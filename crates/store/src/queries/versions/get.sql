SELECT version_id, service_id, environment_id, image, digest, config_hash, config_json, build_id, state,
       last_good_at, retire_at, pinned, created_at
  FROM versions WHERE version_id = $1

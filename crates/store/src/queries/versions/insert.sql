INSERT INTO versions (version_id, service_id, environment_id, image, digest, config_hash,
    config_json, build_id, state, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'warm', $9)

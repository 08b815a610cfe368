INSERT INTO artifacts (artifact_id, build_id, stage_id, name, artifact_type, uri, file_size,
    checksum, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)

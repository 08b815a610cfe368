INSERT INTO audit (seq, at, actor_type, actor_id, address, action, object_type, object_id, detail,
    prev_hash, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

INSERT INTO inbox_collisions (id, first_id, body_digest, body, received_ms)
VALUES ($1, $2, $3, $4, $5)

INSERT INTO inbox (id, hook_id, delivery_id, event, body_digest, headers, body, received_ms, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (hook_id, delivery_id) DO NOTHING

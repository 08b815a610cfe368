INSERT INTO join_tokens (token_hash, labels, uses_left, expires_ms, created_at, role)
VALUES ($1, $2, $3, $4, $5, $6)

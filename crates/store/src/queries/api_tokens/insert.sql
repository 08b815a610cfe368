INSERT INTO api_tokens (token_id, subject, token_hash, roles, created_at, expires_ms)
VALUES ($1, $2, $3, $4, $5, $6)

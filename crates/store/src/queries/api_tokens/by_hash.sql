SELECT token_id, subject, roles, created_at, expires_ms, last_used_ms, revoked_ms
  FROM api_tokens WHERE token_hash = $1

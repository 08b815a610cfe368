UPDATE api_tokens SET revoked_ms = $2 WHERE token_id = $1 AND revoked_ms IS NULL

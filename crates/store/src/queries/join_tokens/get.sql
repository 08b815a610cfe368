SELECT labels, uses_left, expires_ms FROM join_tokens WHERE token_hash = $1

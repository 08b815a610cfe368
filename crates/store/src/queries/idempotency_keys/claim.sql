INSERT INTO idempotency_keys (caller, idem_key, request_hash, created_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (caller, idem_key) DO NOTHING

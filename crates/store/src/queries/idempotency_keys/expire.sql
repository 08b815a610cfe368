DELETE FROM idempotency_keys WHERE created_ms < $1

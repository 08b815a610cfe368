DELETE FROM idempotency_keys WHERE caller = $1 AND idem_key = $2 AND status IS NULL

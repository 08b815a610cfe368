SELECT request_hash, status, answer, location, created_ms
  FROM idempotency_keys WHERE caller = $1 AND idem_key = $2

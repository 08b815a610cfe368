UPDATE idempotency_keys SET status = $3, answer = $4, location = $5
 WHERE caller = $1 AND idem_key = $2

UPDATE inbox SET state = $2, decision = $3, build_id = $4, decided_ms = $5
 WHERE id = $1 AND state = 'pending'

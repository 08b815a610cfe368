-- Changes no key column: open transactions of this leader are not waited for.
UPDATE leaders SET expires_ms = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT + $3
 WHERE name = 'dispatcher' AND epoch = $1 AND holder = $2

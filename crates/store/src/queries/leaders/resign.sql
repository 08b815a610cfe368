UPDATE leaders SET expires_ms = 0 WHERE name = 'dispatcher' AND epoch = $1 AND holder = $2

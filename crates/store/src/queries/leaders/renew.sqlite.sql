-- Nobody else can take it.
UPDATE leaders SET expires_ms = $3 WHERE name = 'dispatcher' AND epoch = $1 AND holder = $2

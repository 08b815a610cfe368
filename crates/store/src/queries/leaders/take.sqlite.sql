-- One process owns the file: it leads from its start, under a higher epoch than the one before.
UPDATE leaders SET epoch = epoch + 1, holder = $1, address = $2, expires_ms = $3
 WHERE name = 'dispatcher'
RETURNING epoch, holder, address, expires_ms

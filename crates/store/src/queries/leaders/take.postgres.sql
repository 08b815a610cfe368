-- The database's own clock judges: those of the dispatchers may differ.
UPDATE leaders
   SET epoch = epoch + 1, holder = $1, address = $2, expires_ms = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT + $3
 WHERE name = 'dispatcher' AND expires_ms < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT
RETURNING epoch, holder, address, expires_ms

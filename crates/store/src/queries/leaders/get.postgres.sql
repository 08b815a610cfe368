-- Who leads now, if anybody does.
SELECT epoch, holder, address, expires_ms FROM leaders
 WHERE name = 'dispatcher' AND expires_ms >= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT

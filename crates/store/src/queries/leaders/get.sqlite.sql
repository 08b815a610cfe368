-- Who leads now: whoever has the file.
SELECT epoch, holder, address, expires_ms FROM leaders WHERE name = 'dispatcher' AND epoch > 0

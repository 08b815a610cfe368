INSERT INTO leaders (name, epoch, holder, address, expires_ms) VALUES ('dispatcher', 0, '', '', 0)
ON CONFLICT (name) DO NOTHING

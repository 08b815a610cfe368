SELECT * FROM machines WHERE state = 'gone' AND gone_ms > $1 ORDER BY created_ms DESC LIMIT 1000

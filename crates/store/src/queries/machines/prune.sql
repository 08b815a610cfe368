DELETE FROM machines WHERE state = 'gone' AND gone_ms < $1

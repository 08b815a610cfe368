UPDATE inbox SET tries = tries + 1 WHERE id = $1 AND state = 'pending'

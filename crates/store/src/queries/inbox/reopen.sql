UPDATE inbox SET state = 'pending', decision = NULL, tries = 0
 WHERE id = $1 AND state IN ('quarantined', 'ignored')

DELETE FROM lock_waiters WHERE deployment_id = $1

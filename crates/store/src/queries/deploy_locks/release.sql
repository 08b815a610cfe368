DELETE FROM deploy_locks WHERE holder = $1

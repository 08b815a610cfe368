UPDATE repositories SET reconciled_ms = $2 WHERE repo_id = $1

SELECT sealed FROM secrets WHERE repo_id = $1 AND name = $2

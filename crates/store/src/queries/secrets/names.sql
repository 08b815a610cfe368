SELECT name FROM secrets WHERE repo_id = $1 ORDER BY name

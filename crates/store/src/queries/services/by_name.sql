SELECT service_id, repo_id, name, created_at FROM services WHERE name = $1

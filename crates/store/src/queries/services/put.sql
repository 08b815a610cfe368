INSERT INTO services (service_id, repo_id, name, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO NOTHING

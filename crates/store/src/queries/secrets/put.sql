INSERT INTO secrets (repo_id, name, sealed, updated_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (repo_id, name) DO UPDATE SET sealed = $3, updated_at = $4

INSERT INTO repositories (repo_id, repo_url, name, branch, weight, created_at)
VALUES ($1, $2, $3, $4, $5, $6)

INSERT INTO hooks (hook_id, repo_id, scheme, webhook_secret, host_repo_id, created_at)
VALUES ($1, $2, $3, $4, $5, $6)

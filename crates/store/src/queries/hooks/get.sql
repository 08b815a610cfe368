SELECT hook_id, repo_id, scheme, webhook_secret, previous_secret, previous_until_ms,
       host_repo_id, created_at
  FROM hooks WHERE hook_id = $1

SELECT repo_id, repo_url, name, branch, weight, reconciled_ms, created_at
  FROM repositories WHERE repo_url = $1

SELECT b.*, r.repo_url, r.name AS repo_name FROM builds b
  JOIN repositories r ON r.repo_id = b.repo_id WHERE b.build_id = $1

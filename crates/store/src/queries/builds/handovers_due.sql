SELECT b.*, r.repo_url, r.name AS repo_name FROM builds b
  JOIN repositories r ON r.repo_id = b.repo_id
 WHERE b.handover = 'due' ORDER BY b.build_id LIMIT 100

SELECT COUNT(*) AS number FROM inbox i JOIN hooks h ON h.hook_id = i.hook_id
 WHERE i.state = 'pending' AND h.repo_id = $1

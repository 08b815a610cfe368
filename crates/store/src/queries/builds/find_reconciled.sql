SELECT b.build_id FROM builds b
 WHERE b.repo_id = $1 AND b.ref_name = $2 AND b.commit_sha = $3 AND b.event = 'reconciled'
   AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.build_id = b.build_id)
 ORDER BY b.build_id LIMIT 1

SELECT b.build_id FROM builds b
 WHERE b.repo_id = $1 AND b.ref_name = $2 AND b.commit_sha = $3
 ORDER BY b.build_id DESC LIMIT 1

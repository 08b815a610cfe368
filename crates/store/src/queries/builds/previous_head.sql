SELECT commit_sha, status, number FROM builds
 WHERE repo_id = $1 AND ref_name = $2 AND build_id < $3 ORDER BY build_id DESC LIMIT 1

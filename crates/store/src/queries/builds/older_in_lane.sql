SELECT build_id FROM builds
 WHERE repo_id = $1 AND lane = $2 AND build_id < $3 AND status IN ('queued', 'building')
 ORDER BY build_id

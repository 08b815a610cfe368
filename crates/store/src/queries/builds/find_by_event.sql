SELECT build_id FROM builds WHERE repo_id = $1 AND event_key = $2

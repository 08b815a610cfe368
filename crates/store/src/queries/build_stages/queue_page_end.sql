SELECT build_id FROM build_stages WHERE state = 'ready' AND build_id > $1
 ORDER BY build_id LIMIT 1 OFFSET 2000

SELECT * FROM build_stages WHERE build_id = $1 ORDER BY idx

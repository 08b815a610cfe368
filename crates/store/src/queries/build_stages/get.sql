SELECT * FROM build_stages WHERE stage_id = $1

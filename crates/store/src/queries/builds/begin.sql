UPDATE builds SET status = 'building', started_at = COALESCE(started_at, $2)
 WHERE build_id = (SELECT build_id FROM build_stages WHERE stage_id = $1) AND status = 'queued'

SELECT stage_id, stage_name, state, needs, failure_ignored, runs_on
  FROM build_stages WHERE build_id = $1 ORDER BY idx

UPDATE stage_outcomes SET used_at = $2 WHERE outcome_id = $1

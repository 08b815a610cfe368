SELECT * FROM stage_outcomes
 WHERE repo_id = $1 AND stage_key = $2 AND state = 'kept' AND scope IN ($3, $4)
 ORDER BY created_at, outcome_id LIMIT 2

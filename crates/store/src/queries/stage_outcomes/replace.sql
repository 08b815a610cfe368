UPDATE stage_outcomes SET state = 'replaced' WHERE outcome_id = $1 AND state = 'kept'

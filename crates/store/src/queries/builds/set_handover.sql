UPDATE builds SET handover = $2 WHERE build_id = $1 AND handover = 'due'

UPDATE build_stages SET state = 'skipped', reason = $3, ended_at = $2
 WHERE stage_id = $1 AND state = 'waiting'

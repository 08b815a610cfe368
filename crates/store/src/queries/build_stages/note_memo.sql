UPDATE build_stages SET memo_note = $2 WHERE stage_id = $1

UPDATE build_stages SET memo = 'asked', stage_key = $2, key_fields = $3, memo_note = $4
 WHERE stage_id = $1 AND state = 'ready' AND memo = 'ask'

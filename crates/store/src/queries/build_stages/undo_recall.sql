UPDATE build_stages
   SET state = 'waiting', memo = 'ask', memo_note = $2, recalled = NULL, stage_key = NULL,
       key_fields = NULL, output_layer = NULL, exit_code = NULL, ready_ms = NULL, started_at = NULL,
       ended_at = NULL, duration = NULL
 WHERE stage_id = $1 AND memo = 'recalled' AND state = 'succeeded'

UPDATE build_stages
   SET state = 'succeeded', memo = 'recalled', stage_key = $2, key_fields = $3, memo_note = $4,
       recalled = $8, output_layer = $6, exit_code = 0, reason = NULL,
       started_at = $7, ended_at = $7, duration = 0
 WHERE stage_id = $1 AND state = 'ready' AND memo = 'ask' AND cancel_ms IS NULL
   AND EXISTS (SELECT 1 FROM stage_outcomes o WHERE o.outcome_id = $5 AND o.state = 'kept')

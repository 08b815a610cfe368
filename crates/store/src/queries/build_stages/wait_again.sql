UPDATE build_stages
   SET state = 'waiting', ready_ms = NULL, stage_key = NULL, key_fields = NULL,
       memo = CASE WHEN memo = 'asked' THEN 'ask' ELSE memo END
 WHERE build_id = $1 AND state = 'ready'

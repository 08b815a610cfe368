UPDATE build_stages
   SET state = 'waiting', reason = NULL, agent_id = NULL, token_hash = NULL, cancel_ms = NULL,
       ready_ms = NULL, not_before_ms = 0, assigned_ms = NULL, started_at = NULL, ended_at = NULL,
       duration = NULL, result_attempt = NULL, result_digest = NULL, exit_code = NULL, losses = 0,
       failures = 0, lost_agents = '[]', output_layer = NULL, image_uri = NULL,
       memo = '', memo_note = 'executed because somebody asked for it again', recalled = NULL,
       stage_key = NULL, key_fields = NULL
 WHERE stage_id = $1
   AND state IN ('failed', 'unknown', 'cancelled', 'skipped', 'superseded', 'succeeded')

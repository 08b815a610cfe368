UPDATE join_tokens SET uses_left = 0
 WHERE token_hash IN (SELECT t.token_hash FROM machine_tokens t WHERE t.agent_id = $1)

SELECT m.agent_id FROM machine_tokens t JOIN machines m ON m.agent_id = t.agent_id
 WHERE t.token_hash = $1 AND m.state = 'starting'

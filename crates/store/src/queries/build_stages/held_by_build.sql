SELECT s.stage_id, s.attempt, s.agent_id, s.state, s.cancel_ms, s.build_id, s.at_most_once
  FROM build_stages s WHERE s.build_id = $1 AND s.state IN ('assigned', 'running')

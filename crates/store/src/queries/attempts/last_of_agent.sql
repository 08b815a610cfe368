SELECT t.outcome, t.assigned_ms, t.ended_ms FROM attempts t
  JOIN agents a ON a.agent_id = t.agent_id
 WHERE t.agent_id = $1 AND t.ended_ms > a.resumed_ms
 ORDER BY t.ended_ms DESC LIMIT 10

UPDATE agents SET state = 'ready', reason = NULL, resumed_ms = $2
 WHERE agent_id = $1 AND state IN ('draining', 'quarantined')
   AND NOT EXISTS (SELECT 1 FROM machines m
                    WHERE m.agent_id = $1 AND m.state IN ('draining', 'stopping'))

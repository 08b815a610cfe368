UPDATE agents SET state = 'draining', reason = $2 WHERE agent_id = $1 AND state = 'ready'
   AND NOT EXISTS (SELECT 1 FROM build_stages s
                    WHERE s.agent_id = $1 AND s.state IN ('assigned', 'running'))

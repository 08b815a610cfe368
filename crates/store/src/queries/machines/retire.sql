UPDATE machines SET state = 'stopping', stop_ms = $2, error = $3
 WHERE agent_id = $1 AND state IN ('starting', 'ready', 'draining')
   AND NOT EXISTS (SELECT 1 FROM build_stages s
                    WHERE s.agent_id = $1 AND s.state IN ('assigned', 'running'))

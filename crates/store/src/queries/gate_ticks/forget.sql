DELETE FROM gate_ticks
 WHERE deployment_id IN (SELECT deployment_id FROM deployments
                          WHERE ended_at IS NOT NULL AND ended_at < $1)

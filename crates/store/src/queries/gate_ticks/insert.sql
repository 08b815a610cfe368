INSERT INTO gate_ticks (deployment_id, step_idx, seq, source, boot_id, t0, t1, counters_json)
SELECT $1, $2, $3, $4, $5, $6, $7, $8
 WHERE EXISTS (SELECT 1 FROM deployments WHERE deployment_id = $1 AND token = $9)
ON CONFLICT (deployment_id, step_idx, seq, source) DO NOTHING

SELECT deployment_id, step_idx, seq, source, boot_id, t0, t1, counters_json
  FROM gate_ticks WHERE deployment_id = $1 AND step_idx = $2 ORDER BY source, seq LIMIT $3

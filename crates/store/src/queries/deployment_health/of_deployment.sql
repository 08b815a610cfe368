SELECT health_id, deployment_id, metric_name, baseline_value, current_value, threshold_alert,
       checked_at, step_idx, verdict, evidence_json, rule_version
  FROM deployment_health WHERE deployment_id = $1 ORDER BY checked_at, health_id LIMIT $2

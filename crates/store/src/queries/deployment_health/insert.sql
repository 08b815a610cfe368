INSERT INTO deployment_health (health_id, deployment_id, metric_name, baseline_value, current_value,
    threshold_alert, checked_at, step_idx, verdict, evidence_json, rule_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

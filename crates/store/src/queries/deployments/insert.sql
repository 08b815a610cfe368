INSERT INTO deployments (deployment_id, build_id, initiator_id, service_id, environment_id,
    target_environment, strategy, source_version, target_version, status, approval_status,
    created_at, kind, phase, plan_json, plan_hash, state_json, idem_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'in_progress', $10, $11, $12, 'planned', $13, $14, $15,
    $16)

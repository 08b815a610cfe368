-- Empty text = any; $5: older than this id.
SELECT d.deployment_id, d.build_id, d.initiator_id, d.service_id, d.environment_id, d.target_environment,
       d.strategy, d.source_version, d.target_version, d.status, d.canary_percentage,
       d.approval_status, d.approver_id, d.approved_at, d.started_at, d.ended_at, d.created_at,
       d.kind, d.phase, d.step_idx, d.plan_json, d.plan_hash, d.state_json, d.token, d.row_version,
       d.owner_id, d.owner_expires_at, d.pause_reason, d.pause_deadline_at, d.progress, d.reason,
       d.wish, d.superseded_by, s.name AS service_name
  FROM deployments d JOIN services s ON s.service_id = d.service_id
 WHERE ($1 = '' OR s.name = $1) AND ($2 = '' OR d.target_environment = $2)
   AND ($3 = '' OR d.status = $3) AND ($4 = '' OR d.build_id = $4)
   AND ($5 = '' OR d.deployment_id < $5)
 ORDER BY d.deployment_id DESC LIMIT $6

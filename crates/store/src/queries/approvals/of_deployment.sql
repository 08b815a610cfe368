SELECT approver_id, plan_hash, asked_at, expires_at, method, decision, reason, rule_version,
       decided_at
  FROM approvals WHERE deployment_id = $1 ORDER BY decided_at, approver_id

INSERT INTO approvals (deployment_id, approver_id, plan_hash, asked_at, expires_at, method,
    decision, reason, rule_version, decided_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (deployment_id, plan_hash, approver_id) DO UPDATE
   SET decision = excluded.decision, reason = excluded.reason, decided_at = excluded.decided_at
 WHERE approvals.decision <> excluded.decision

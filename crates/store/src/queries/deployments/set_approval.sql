UPDATE deployments
   SET approval_status = $2, approver_id = $3, approved_at = $4, row_version = row_version + 1
 WHERE deployment_id = $1 AND status = 'in_progress' AND phase IN ('planned', 'await_approval')

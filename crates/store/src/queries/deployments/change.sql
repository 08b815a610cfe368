-- The fence: the token of the owner, and the version of the row that the decision was made from.
UPDATE deployments
   SET phase = $4, status = $5, step_idx = $6, state_json = $7, reason = $8,
       progress = CASE WHEN progress > $9 THEN progress ELSE $9 END,
       canary_percentage = $10, pause_deadline_at = $11,
       source_version = COALESCE($12, source_version),
       approval_status = COALESCE($13, approval_status),
       plan_hash = COALESCE($14, plan_hash),
       wish = CASE WHEN $15 = 1 THEN NULL ELSE wish END,
       started_at = COALESCE(started_at, $16), ended_at = $17,
       row_version = row_version + 1
 WHERE deployment_id = $1 AND token = $2 AND row_version = $3 AND status = 'in_progress'

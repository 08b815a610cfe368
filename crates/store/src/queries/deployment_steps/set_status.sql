UPDATE deployment_steps
   SET status = $4, applied_at = COALESCE(applied_at, $5), verified_at = COALESCE(verified_at, $6),
       evidence_json = COALESCE($7, evidence_json)
 WHERE deployment_id = $1 AND idx = $2 AND attempt = $3

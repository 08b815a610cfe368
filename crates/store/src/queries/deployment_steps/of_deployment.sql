SELECT idx, attempt, kind, desired_json, status, token, gen, intent_at, applied_at, verified_at,
       evidence_json
  FROM deployment_steps WHERE deployment_id = $1 ORDER BY idx, attempt

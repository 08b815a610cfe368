INSERT INTO deployment_steps (deployment_id, idx, attempt, kind, desired_json, status, token, gen,
    idem_key, intent_at)
VALUES ($1, $2, $3, $4, $5, 'intent', $6, $7, $8, $9)

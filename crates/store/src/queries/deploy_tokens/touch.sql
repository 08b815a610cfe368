INSERT INTO deploy_tokens (service_id, environment_id, token, gen) VALUES ($1, $2, 0, 0)
ON CONFLICT (service_id, environment_id) DO UPDATE SET gen = deploy_tokens.gen

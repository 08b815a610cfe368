-- $3: a floor, for a router that has seen more than we remember (a restored database).
INSERT INTO deploy_tokens (service_id, environment_id, token, gen) VALUES ($1, $2, $3 + 1, 0)
ON CONFLICT (service_id, environment_id) DO UPDATE
   SET token = CASE WHEN deploy_tokens.token > $3 THEN deploy_tokens.token ELSE $3 END + 1
RETURNING token AS value

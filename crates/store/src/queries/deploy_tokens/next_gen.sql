UPDATE deploy_tokens SET gen = gen + 1
 WHERE service_id = $1 AND environment_id = $2 AND token = $3
RETURNING gen AS value

UPDATE deployments SET token = $2, row_version = row_version + 1
 WHERE deployment_id = $1 AND row_version = $3 AND status = 'in_progress'

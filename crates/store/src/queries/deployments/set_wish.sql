UPDATE deployments SET wish = $2, row_version = row_version + 1
 WHERE deployment_id = $1 AND status = 'in_progress'

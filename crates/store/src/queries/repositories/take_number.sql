UPDATE repositories SET next_number = next_number + 1
 WHERE repo_id = $1 RETURNING next_number - 1 AS number

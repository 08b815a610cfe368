SELECT ref_name, sha FROM ref_heads WHERE repo_id = $1 ORDER BY ref_name

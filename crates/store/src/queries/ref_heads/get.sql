SELECT ref_name, sha FROM ref_heads WHERE repo_id = $1 AND ref_name = $2

DELETE FROM ref_heads WHERE repo_id = $1 AND ref_name = $2

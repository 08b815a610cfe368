INSERT INTO ref_heads (repo_id, ref_name, sha, seen_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (repo_id, ref_name) DO UPDATE SET sha = $3, seen_ms = $4

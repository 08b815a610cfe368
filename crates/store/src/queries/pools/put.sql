INSERT INTO pools (pool, settings, signing_key, updated_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (pool) DO UPDATE SET settings = excluded.settings, updated_at = excluded.updated_at,
       signing_key = COALESCE(excluded.signing_key, pools.signing_key), removed_ms = NULL

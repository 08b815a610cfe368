UPDATE peers SET revoked_ms = $2 WHERE peer_id = $1 AND revoked_ms IS NULL

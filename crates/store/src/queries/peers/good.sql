SELECT peer_id, role FROM peers WHERE peer_id = $1 AND role = $2 AND revoked_ms IS NULL

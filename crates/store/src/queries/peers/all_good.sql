SELECT peer_id, role FROM peers WHERE revoked_ms IS NULL

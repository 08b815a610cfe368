INSERT INTO peers (peer_id, role, name, created_at) VALUES ($1, $2, $3, $4)

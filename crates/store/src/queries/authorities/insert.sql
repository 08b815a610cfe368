INSERT INTO authorities (authority_id, certificate, sealed_key, created_at) VALUES ('own', $1, $2, $3)
ON CONFLICT (authority_id) DO NOTHING

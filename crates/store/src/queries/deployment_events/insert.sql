INSERT INTO deployment_events (deployment_id, seq, at, kind, json)
SELECT $1, COALESCE(MAX(seq), 0) + 1, CAST($2 AS BIGINT), $3, $4 FROM deployment_events WHERE deployment_id = $1

SELECT seq, at, kind, json FROM deployment_events
 WHERE deployment_id = $1 AND seq > $2 ORDER BY seq LIMIT $3

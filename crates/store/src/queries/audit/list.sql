SELECT seq, at, actor_type, actor_id, address, action, object_type, object_id, detail, prev_hash,
       hash
  FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2

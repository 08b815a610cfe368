SELECT id, hook_id, delivery_id, event, body_digest, headers, body, received_ms, state, decision,
       build_id, tries
  FROM inbox WHERE hook_id = $1 ORDER BY id DESC LIMIT $2

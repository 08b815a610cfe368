SELECT id, hook_id, delivery_id, event, body_digest, headers, body, received_ms, state, decision,
       build_id, tries
  FROM inbox WHERE id = $1

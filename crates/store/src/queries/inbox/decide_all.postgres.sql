-- The same as decide.sql for many deliveries in one round trip: SQLite has none to save.
UPDATE inbox i SET state = g.state, decision = g.decision, build_id = g.build_id, decided_ms = g.decided_ms
  FROM json_to_recordset($1::json)
    AS g(id TEXT, state TEXT, decision TEXT, build_id TEXT, decided_ms BIGINT)
 WHERE i.id = g.id AND i.state = 'pending'

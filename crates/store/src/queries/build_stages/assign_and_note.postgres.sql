-- The same as assign.sql and attempts/insert.sql in one round trip: SQLite has none to save.
WITH assigned AS (
    UPDATE build_stages
       SET state = 'assigned', attempt = attempt + 1, agent_id = $1, token_hash = $4, assigned_ms = $5
     WHERE stage_id = $2 AND state = 'ready' AND attempt = $3 AND cancel_ms IS NULL
       AND EXISTS (SELECT 1 FROM agents a WHERE a.agent_id = $1 AND a.state = 'ready')
       AND (concurrency_group IS NULL OR (
            SELECT COUNT(*) FROM build_stages h
             WHERE h.concurrency_group = build_stages.concurrency_group
               AND h.state IN ('assigned', 'running')) < concurrency_limit)
    RETURNING stage_id, attempt, agent_id, assigned_ms)
INSERT INTO attempts (stage_id, attempt, agent_id, assigned_ms)
SELECT stage_id, attempt, agent_id, assigned_ms FROM assigned

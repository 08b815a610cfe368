-- The same as assign.sql and attempts/insert.sql for many stages that are in no concurrency group, in one
-- round trip: SQLite has none to save. Groups are counted one assignment after the other.
WITH given AS (
    SELECT * FROM json_to_recordset($1::json) AS g(
        stage_id TEXT, attempt BIGINT, agent_id TEXT, token_hash TEXT)),
assigned AS (
    UPDATE build_stages s
       SET state = 'assigned', attempt = s.attempt + 1, agent_id = g.agent_id,
           token_hash = g.token_hash, assigned_ms = $2
      FROM given g
     WHERE s.stage_id = ANY (ARRAY(SELECT stage_id FROM given))
       AND s.stage_id = g.stage_id AND s.state = 'ready' AND s.attempt = g.attempt
       AND s.cancel_ms IS NULL AND s.concurrency_group IS NULL
       AND EXISTS (SELECT 1 FROM agents a WHERE a.agent_id = g.agent_id AND a.state = 'ready')
    RETURNING s.stage_id, s.attempt, s.agent_id, s.assigned_ms)
INSERT INTO attempts (stage_id, attempt, agent_id, assigned_ms)
SELECT stage_id, attempt, agent_id, assigned_ms FROM assigned
RETURNING stage_id

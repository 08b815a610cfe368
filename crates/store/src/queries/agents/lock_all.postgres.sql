-- SQLite has one writer: nobody to lock anything against.
SELECT COUNT(*) AS found FROM (
    SELECT agent_id FROM agents
     WHERE agent_id IN (SELECT jsonb_array_elements_text($1::TEXT::JSONB))
     ORDER BY agent_id FOR SHARE) AS locked

-- The same as queue_of_build.sql for many builds in one round trip: SQLite has none to save.
SELECT s.stage_id, s.build_id, s.repo_id, s.stage_name, s.state, s.attempt, s.agent_id, s.priority,
       s.labels, s.concurrency_group, s.concurrency_limit, s.ready_ms, s.not_before_ms,
       s.cancel_ms, s.at_most_once, s.lost_agents, s.timeout_ms,
       s.cache_key, s.critical_ms, s.memo, b.urgent, b.lane, r.weight,
       b.concurrency_group AS build_group, b.concurrency_limit AS build_group_limit,
       b.created_at AS build_created, b.status AS build_status
  FROM build_stages s
  JOIN builds b ON b.build_id = s.build_id
  JOIN repositories r ON r.repo_id = s.repo_id
 WHERE s.build_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))
   AND s.state IN ('ready', 'assigned', 'running')
 ORDER BY s.build_id, s.stage_id

-- The same as insert.sql for all stages of a build in one round trip: SQLite has none to save.
INSERT INTO build_stages (stage_id, build_id, repo_id, idx, stage_name, spec, needs, runs_on,
    failure_ignored, at_most_once, priority, labels, concurrency_group, concurrency_limit,
    timeout_ms, state, reason, ready_ms, cache_key, critical_ms, inputs, memo, memo_note)
SELECT * FROM json_to_recordset($1::json) AS g(
    stage_id TEXT, build_id TEXT, repo_id TEXT, idx BIGINT, stage_name TEXT, spec TEXT, needs TEXT,
    runs_on TEXT, failure_ignored BIGINT, at_most_once BIGINT, priority BIGINT, labels TEXT,
    concurrency_group TEXT, concurrency_limit BIGINT, timeout_ms BIGINT, state TEXT, reason TEXT,
    ready_ms BIGINT, cache_key TEXT, critical_ms BIGINT,
    inputs TEXT, memo TEXT, memo_note TEXT)

-- The same as insert.sql for many builds in one round trip: SQLite has none to save.
INSERT INTO builds (build_id, repo_id, number, pipeline, commit_sha, commit_message, author,
    ref_name, branch, status, trigger_type, event, trust, event_key, lane, concurrency_group,
    concurrency_limit, urgent, errors, variables, deploy, initiator, created_at, log_url, started_at,
    ended_at, duration, committed_at)
SELECT * FROM json_to_recordset($1::json) AS g(
    build_id TEXT, repo_id TEXT, number BIGINT, pipeline TEXT, commit_sha TEXT, commit_message TEXT,
    author TEXT, ref_name TEXT, branch TEXT, status TEXT, trigger_type TEXT, event TEXT, trust TEXT,
    event_key TEXT, lane TEXT, concurrency_group TEXT, concurrency_limit BIGINT, urgent BIGINT,
    errors TEXT, variables TEXT, deploy TEXT, initiator TEXT, created_at BIGINT, log_url TEXT,
    started_at BIGINT, ended_at BIGINT, duration BIGINT, committed_at BIGINT)

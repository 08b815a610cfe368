INSERT INTO builds (build_id, repo_id, number, pipeline, commit_sha, commit_message, author,
    ref_name, branch, status, trigger_type, event, trust, event_key, lane, concurrency_group,
    concurrency_limit, urgent, errors, variables, deploy, initiator, created_at, log_url, started_at,
    ended_at, duration, committed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21, $22, $23, $24, $25, $26, $27, $28)

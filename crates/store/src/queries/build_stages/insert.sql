INSERT INTO build_stages (stage_id, build_id, repo_id, idx, stage_name, spec, needs, runs_on,
    failure_ignored, at_most_once, priority, labels, concurrency_group, concurrency_limit,
    timeout_ms, state, reason, ready_ms, cache_key, critical_ms, inputs, memo, memo_note)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)

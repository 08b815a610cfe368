INSERT INTO reports (stage_id, path, build_id, kind, state, total, passed, failed, skipped, flaky,
    duration_ms, lines_covered, lines_valid, failures, problem)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (stage_id, path) DO UPDATE SET state = $5, total = $6, passed = $7, failed = $8,
    skipped = $9, flaky = $10, duration_ms = $11, lines_covered = $12, lines_valid = $13,
    failures = $14, problem = $15

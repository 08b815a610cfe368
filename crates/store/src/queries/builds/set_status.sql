UPDATE builds SET status = $2,
       started_at = CASE WHEN started_at IS NULL AND $2 <> 'queued' THEN $3 ELSE started_at END,
       ended_at = CASE WHEN $4 = 1 THEN COALESCE(ended_at, $3) ELSE NULL END,
       duration = CASE WHEN $4 = 1 THEN COALESCE(ended_at, $3) - COALESCE(started_at, $3)
                       ELSE NULL END,
       handover = CASE WHEN $2 = 'passed' AND deploy IS NOT NULL AND handover = 'none'
                       THEN 'due' ELSE handover END
 WHERE build_id = $1

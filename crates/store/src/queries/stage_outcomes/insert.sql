INSERT INTO stage_outcomes (outcome_id, stage_key, repo_id, scope, state, stage_name, fields, build_id,
    stage_id, attempt, agent_id, output_layer, artifacts, reports, outputs, duration, created_at, used_at)
SELECT $1, s.stage_key, s.repo_id,
       CASE WHEN b.trust = 'trusted' THEN 'trusted' ELSE 'outside:' || b.ref_name END,
       $2, s.stage_name, s.key_fields, s.build_id, s.stage_id, s.attempt, s.agent_id, s.output_layer,
       $3, $4, $5, COALESCE(s.duration, 0), $6, $6
  FROM build_stages s JOIN builds b ON b.build_id = s.build_id
 WHERE s.stage_id = $7 AND s.stage_key IS NOT NULL
ON CONFLICT DO NOTHING

SELECT o.* FROM stage_outcomes o
  JOIN build_stages s ON s.repo_id = o.repo_id AND s.stage_key = o.stage_key
  JOIN builds b ON b.build_id = s.build_id
 WHERE s.stage_id = $1 AND o.state = 'kept'
   AND o.scope = CASE WHEN b.trust = 'trusted' THEN 'trusted' ELSE 'outside:' || b.ref_name END

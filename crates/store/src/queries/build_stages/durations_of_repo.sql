SELECT s.stage_name, s.duration FROM build_stages s
  JOIN builds b ON b.build_id = s.build_id
 WHERE b.repo_id = $1 AND s.state = 'succeeded' AND s.duration IS NOT NULL
 ORDER BY s.stage_id DESC LIMIT 500

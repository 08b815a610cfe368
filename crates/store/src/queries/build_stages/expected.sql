-- The last ten accepted durations of each stage, looked for in the last fifty builds of the pipeline.
SELECT d.stage_name, d.duration FROM (
    SELECT s.stage_name, s.duration,
           ROW_NUMBER() OVER (PARTITION BY s.stage_name ORDER BY b.number DESC) AS place
      FROM (SELECT build_id, number FROM builds
             WHERE repo_id = $1 AND pipeline = $2 ORDER BY number DESC LIMIT 50) b
      JOIN build_stages s ON s.build_id = b.build_id
     WHERE s.state = 'succeeded' AND s.duration IS NOT NULL) d
 WHERE d.place <= 10

-- Where no stage waits, nothing can follow and only the kinds of states matter: a wide build is then read
-- as a handful of rows.
SELECT MIN(build_id) AS build_id, MIN(stage_id) AS stage_id, MIN(stage_name) AS stage_name, MIN(state) AS state,
       MIN(needs) AS needs, MIN(failure_ignored) AS failure_ignored, MIN(runs_on) AS runs_on
  FROM build_stages WHERE build_id = $1
 GROUP BY CASE WHEN (SELECT COUNT(*) FROM build_stages w
                      WHERE w.build_id = $1 AND w.state = 'waiting') > 0
               THEN stage_id ELSE state || failure_ignored END
 ORDER BY MIN(idx)

UPDATE builds SET test_coverage = (
    SELECT CASE WHEN SUM(r.lines_valid) > 0
                THEN 100.0 * CAST(SUM(r.lines_covered) AS DOUBLE PRECISION)
                     / CAST(SUM(r.lines_valid) AS DOUBLE PRECISION) END
      FROM reports r WHERE r.build_id = $1 AND r.kind = 'coverage' AND r.state = 'present')
 WHERE build_id = $1

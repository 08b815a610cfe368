UPDATE build_stages SET state = 'superseded'
 WHERE stage_id = $1 AND state = 'cancelled'
   AND EXISTS (SELECT 1 FROM builds b
                WHERE b.build_id = build_stages.build_id AND b.superseded_by IS NOT NULL)

DELETE FROM pools WHERE pool = $1 AND removed_ms IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM machines m WHERE m.pool = $1 AND m.state <> 'gone')

UPDATE versions SET state = 'gone' WHERE version_id = $1 AND state = 'stopped'

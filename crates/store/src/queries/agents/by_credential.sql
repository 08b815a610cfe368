SELECT * FROM agents WHERE credential_hash = $1 AND state <> 'gone'

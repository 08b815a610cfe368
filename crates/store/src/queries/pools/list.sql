SELECT * FROM pools ORDER BY pool

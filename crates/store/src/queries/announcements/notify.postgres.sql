-- On SQLite there is nobody to tell.
SELECT pg_notify($1, $2)

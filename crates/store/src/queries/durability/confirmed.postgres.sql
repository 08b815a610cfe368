-- PostgreSQL's statistics: SQLite has no second machine.
SELECT count(*) AS found FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')

-- PostgreSQL's settings: SQLite has no second machine.
SELECT current_setting('synchronous_standby_names') AS setting

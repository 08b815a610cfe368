-- The same as count_try.sql for many deliveries in one round trip: SQLite has none to save.
UPDATE inbox SET tries = tries + 1
 WHERE state = 'pending' AND id = ANY (ARRAY(SELECT json_array_elements_text($1::json)))

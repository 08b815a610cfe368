UPDATE pools SET removed_ms = $2 WHERE pool = $1 AND removed_ms IS NULL

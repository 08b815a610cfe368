DELETE FROM stage_outcomes WHERE used_at < $1

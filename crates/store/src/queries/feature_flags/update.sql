UPDATE feature_flags SET enabled = $2, rollout_percentage = $3, target_users = $4, updated_at = $5
 WHERE flag_id = $1

SELECT stage_id, recalled FROM build_stages
 WHERE build_id = $1 AND memo = 'recalled' AND state = 'succeeded' AND output_layer IS NOT NULL

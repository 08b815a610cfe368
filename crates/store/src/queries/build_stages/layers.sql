SELECT build_id, stage_name, needs, output_layer FROM build_stages WHERE build_id = $1 ORDER BY idx

UPDATE builds SET docker_image_uri = $2 WHERE build_id = $1

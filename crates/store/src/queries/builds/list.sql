SELECT b.*, r.repo_url, r.name AS repo_name FROM builds b
  JOIN repositories r ON r.repo_id = b.repo_id
 WHERE ($1 = '' OR b.repo_id = $1)
   AND ($2 = '' OR b.branch = $2)
   AND ($3 = '' OR b.status = $3)
   AND ($4 = '' OR b.commit_sha LIKE $4 || '%')
   AND ($5 = '' OR b.author = $5)
   AND ($6 = '' OR b.event = $6)
   AND b.created_at >= $7
   AND ($8 = '' OR b.build_id < $8)
 ORDER BY b.build_id DESC LIMIT $9

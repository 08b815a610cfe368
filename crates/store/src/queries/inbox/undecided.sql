SELECT COUNT(*) AS number FROM inbox WHERE state = 'pending'

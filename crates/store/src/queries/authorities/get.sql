SELECT certificate, sealed_key FROM authorities WHERE authority_id = 'own'

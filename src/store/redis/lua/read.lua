-- A stored string. KEYS: its name.
return redis.call('GET', KEYS[1])

-- Gives a secret back, where it is still the key's. KEYS: the secret. ARGV: the key.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1

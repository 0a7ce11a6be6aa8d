-- A key's record and what is left to do of its last change. KEYS: the record, the changes. ARGV: the
-- key's id.
return {redis.call('GET', KEYS[1]), redis.call('HGET', KEYS[2], ARGV[1])}

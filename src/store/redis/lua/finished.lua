-- Nothing is left to do of this change. KEYS: the record, the changes. ARGV: the key's id, the change's.
-- Answers the version of the record as it is now; 0: none.
local change = redis.call('HGET', KEYS[2], ARGV[1])
if change and string.sub(change, 1, 16) == ARGV[2] then redis.call('HDEL', KEYS[2], ARGV[1]) end
local record = redis.call('GET', KEYS[1])
if not record then return 0 end
local version = struct.unpack('>i8', record)
return version

-- Removes a user's record of the expected version. KEYS: the records, the logins, the list, the audit
-- log. ARGV: the user's id, the expected version, name and address in small letters, the audit entry.
local DONE, ABSENT, CONFLICT = 0, 1, 2
local present = redis.call('HGET', KEYS[1], ARGV[1])
if not present then return ABSENT end
if struct.unpack('>i8', present) ~= tonumber(ARGV[2]) then return CONFLICT end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[3], ARGV[4])
redis.call('ZREM', KEYS[3], ARGV[1])
note(KEYS[4], ARGV[5])
return DONE

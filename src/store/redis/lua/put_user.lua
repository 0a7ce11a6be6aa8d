-- Puts a user's record in place of the one with the expected version (0: of none). All users lie in one
-- slot, so that no name is given twice. KEYS: the records, the logins, the list, the audit log. ARGV: the
-- user's id, the expected version, the record, name and address in small letters, the audit entry (empty:
-- none), then the name and the address it had. Answers what became of it.
local DONE, ABSENT, CONFLICT, TAKEN = 0, 1, 2, 3
local id, expected = ARGV[1], tonumber(ARGV[2])
local present = redis.call('HGET', KEYS[1], id)
if present == ARGV[3] then return DONE end
if expected == 0 then
  if present then return CONFLICT end
else
  if not present then return ABSENT end
  if struct.unpack('>i8', present) ~= expected then return CONFLICT end
end
for n = 4, 5 do
  local owner = redis.call('HGET', KEYS[2], ARGV[n])
  if owner and owner ~= id then return TAKEN end
end
for n = 7, #ARGV do redis.call('HDEL', KEYS[2], ARGV[n]) end
redis.call('HSET', KEYS[2], ARGV[4], id, ARGV[5], id)
redis.call('HSET', KEYS[1], id, ARGV[3])
if not redis.call('ZSCORE', KEYS[3], id) then
  local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
  redis.call('ZADD', KEYS[3], (tonumber(last[2]) or 0) + 1, id)
end
if ARGV[6] ~= '' then note(KEYS[4], ARGV[6]) end
return DONE

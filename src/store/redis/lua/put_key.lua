-- Puts a key's record in place of the one with the expected version, or removes it for good; notes
-- what is left to do of this change elsewhere, and who made it.
-- KEYS: the record, what is remembered of a removed key, the changes, the audit log. ARGV: the
-- expected version (0: no such key may exist or have existed), the new record (empty: none), the
-- key's id, the change (its own id first), the audit entry (empty: none), what to remember of a removed
-- key, whether one that was removed may come back.
local DONE, ABSENT, CONFLICT, UNFINISHED = 0, 1, 2, 3
local CHANGE_ID = 16

local change = redis.call('HGET', KEYS[3], ARGV[3])
if change then
  local again = string.sub(change, 1, CHANGE_ID) == string.sub(ARGV[4], 1, CHANGE_ID)
  return again and DONE or UNFINISHED
end
local present = redis.call('GET', KEYS[1])
if present == ARGV[2] then return DONE end
local expected = tonumber(ARGV[1])
if expected == 0 then
  if present or (ARGV[7] ~= '1' and redis.call('EXISTS', KEYS[2]) == 1) then return CONFLICT end
  redis.call('DEL', KEYS[2])
else
  if not present then return ABSENT end
  if struct.unpack('>i8', present) ~= expected then return CONFLICT end
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[2], ARGV[6])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
if ARGV[5] ~= '' then note(KEYS[4], ARGV[5]) end
return DONE

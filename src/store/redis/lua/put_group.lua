-- Puts a group's record in place of whatever there is; its counters hear of the version at once.
-- KEYS: the record, the counters, the audit log. ARGV: the record, fresh counters, the audit entry
-- (empty: none), the version a backup has it with (0: it is no backup's). Answers the version.
local function version_at(key)
  local blob = redis.call('GET', key)
  if not blob then return 0 end
  local version = struct.unpack('>i8', blob)
  return version
end
local counted, wanted = version_at(KEYS[2]), tonumber(ARGV[4])
local present = redis.call('GET', KEYS[1])
if wanted > 0 and present and string.sub(present, 9) == ARGV[1] then return version_at(KEYS[1]) end
-- A removed group's counters remember its version: no edge may know a later one than the new.
local version = math.max(math.max(version_at(KEYS[1]), math.abs(counted)) + 1, wanted)
local head = struct.pack('>i8', version)
redis.call('SET', KEYS[1], head .. ARGV[1])
if counted > 0 then
  redis.call('SETRANGE', KEYS[2], 0, head)
else
  redis.call('SET', KEYS[2], head .. string.sub(ARGV[2], 9))
end
if ARGV[3] ~= '' then note(KEYS[3], ARGV[3]) end
return version

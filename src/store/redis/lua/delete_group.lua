-- Removes a group and its counters. KEYS: the record, the counters, the audit log. ARGV: the audit
-- entry, how long its version is remembered in milliseconds. Answers 0 where there is no such group.
local record = redis.call('GET', KEYS[1])
if not record then return 0 end
local version = struct.unpack('>i8', record)
redis.call('DEL', KEYS[1])
local blob = redis.call('GET', KEYS[2])
if blob then
  local none = struct.pack('>i8', -version) .. string.rep('\0', #blob - 8)
  redis.call('SET', KEYS[2], none, 'PX', ARGV[2])
end
note(KEYS[3], ARGV[1])
return 1

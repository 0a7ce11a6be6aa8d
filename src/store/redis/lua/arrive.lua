-- A key's counters arrive with the change that made `version`. Where they are already, they hear of
-- the version; where a later change took them away again, nothing happens.
-- KEYS: the counters. ARGV: the version, the counters.
local version = tonumber(ARGV[1])
local head = struct.pack('>i8', version)
local blob = redis.call('GET', KEYS[1])
local present = blob and struct.unpack('>i8', blob)
if present and present >= 0 then
  if present < version then redis.call('SETRANGE', KEYS[1], 0, head) end
elseif not present or -present < version then
  redis.call('SET', KEYS[1], head .. string.sub(ARGV[2], 9))
end
return 1

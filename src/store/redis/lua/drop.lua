-- Counters that left with `version`, or whose key was removed by it, are cleared away. What is left
-- for a while tells a step that comes late that they are not to be made anew.
-- KEYS: the counters. ARGV: the version, milliseconds.
local version = tonumber(ARGV[1])
local blob = redis.call('GET', KEYS[1])
if not blob then return 0 end
local present = struct.unpack('>i8', blob)
if present == -version or (present >= 0 and present < version) then
  local none = struct.pack('>i8', -version) .. string.rep('\0', #blob - 8)
  redis.call('SET', KEYS[1], none, 'PX', ARGV[2])
end
return 1

-- A key's counters leave this shard with the change that made `version`: from now on they decide
-- nothing here. A version below zero says so, and by which change, so that one that is told late
-- takes nothing that came back meanwhile.
-- KEYS: the counters. ARGV: the version. Answers the counters; nothing where they are not here.
local version = tonumber(ARGV[1])
local blob = redis.call('GET', KEYS[1])
if not blob then return false end
local present = struct.unpack('>i8', blob)
if present == -version then return blob end
if present < 0 or present >= version then return false end
redis.call('SETRANGE', KEYS[1], 0, struct.pack('>i8', -version))
return blob

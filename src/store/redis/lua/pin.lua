-- Says where something owed is to be paid, unless another place was named meanwhile: it is paid in one
-- place only. KEYS: what is owed. ARGV: the field, the place as it was read (empty: none), the place.
-- Answers the entry as it is now; nothing where it was paid.
local ENTRY = 136
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry or string.sub(entry, ENTRY + 1) ~= ARGV[2] then return entry end
entry = string.sub(entry, 1, ENTRY) .. ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], entry)
return entry

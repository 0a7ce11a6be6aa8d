-- Sets `used` of all three resources to 0. KEYS: the counters.
local c = read_counters(KEYS[1])
if not c or c[VERSION] < 0 then return 0 end
for n = 1, 3 do c[COUNTS[n] + USED] = 0 end
write_counters(c)
return 1

-- Books a refused request: its error counts and sums move, used and held never.
-- KEYS: the key's counters, its events that charged nothing, the shard's, the day's sums, the day's errors,
-- the days. ARGV: packed figures, the event, its model, its error code, the key's id.
local IS_ERROR, CREATED, PROMPT, COMPLETION, TOOK, ROW = 1, 2, 3, 4, 5, 6
local a = {struct.unpack('>i8i8i8i8i8i8', ARGV[1])}
local c = read_counters(KEYS[1])
if not c or c[VERSION] < 0 then return 0 end
note_activity(c, 0, a[IS_ERROR], a[CREATED])
write_counters(c)
book(0, KEYS[4], KEYS[5], KEYS[6], c[EVENTS], false, a[CREATED], {0, 0, 0}, a[PROMPT],
  a[COMPLETION], a[TOOK], a[IS_ERROR], ARGV[2], ARGV[3], ARGV[4], ARGV[5], a[ROW] == 1)
return 1

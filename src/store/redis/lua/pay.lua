-- Pays once what a moved key owes for a reservation that ended where its counters had been.
-- KEYS: that it was paid, the key's counters. ARGV: wall, steady, the figures owed, milliseconds to remember.
-- Answers 0 where the counters are not here.
local wall, steady = clock(tonumber(ARGV[1]), tonumber(ARGV[2]))
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
local c = read_counters(KEYS[2])
if not c or c[VERSION] < 0 then return 0 end
local o = {struct.unpack('>' .. string.rep('i8', 15), ARGV[3])}
local ended = {
  wall = wall, steady = steady, rated = o[1] == 1, late = o[2] == 1, void = o[13] == 1,
  held = {o[3], o[4], o[5]}, charged = {o[6], o[7], o[8]},
}
close(c, ended, o[9], {o[10], o[11], o[12]})
note_activity(c, o[6], o[14], o[15])
write_counters(c)
redis.call('SET', KEYS[1], '', 'PX', ARGV[4])
return 1

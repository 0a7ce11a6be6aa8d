-- Sets a scope's counters as a backup has them. What is held here stays, in the window it came from.
-- KEYS: the counters. ARGV: of each resource used, booked, period, start, stop, number (empty: none of
-- it), then requests, errors and the last use (empty: none). Answers 0 where there are no counters.
local c = read_counters(KEYS[1])
if not c or c[VERSION] < 0 then return 0 end
if ARGV[1] ~= '' then
  local told = {struct.unpack('>' .. string.rep('i8', 18), ARGV[1])}
  local holds = c[RUNNING] > 0
  for _, count in ipairs(COUNTS) do holds = holds or c[count + HELD] ~= 0 end
  for n, count in ipairs(COUNTS) do
    local at = 6 * (n - 1)
    c[count + USED], c[count + BOOKED] = told[at + 1], told[at + 2]
    c[count + PERIOD], c[count + START], c[count + STOP] = told[at + 3], told[at + 4], told[at + 5]
    if not holds then c[count + NUMBER] = told[at + 6] end
  end
end
if ARGV[2] ~= '' then
  c[REQUEST_COUNT], c[ERROR_COUNT], c[LAST_USED] = struct.unpack('>i8i8i8', ARGV[2])
end
write_counters(c)
return 1

-- Takes more for an open reservation where the whole of it fits every quota. Per-minute buckets bear
-- it without being asked.
-- KEYS: the reservation, the key's counters, the group's counters (where held). ARGV: packed figures.
local WALL, STEADY, MORE = 1, 2, 3
local CLAIMS = {6, 16}
local scopes = #KEYS - 1
local a = {struct.unpack('>' .. string.rep('i8', 5 + scopes * CLAIM), ARGV[1])}
local wall, steady = clock(a[WALL], a[STEADY])
local more = {a[MORE], a[MORE + 1], a[MORE + 2]}

local r = read_reservation(KEYS[1])
if not r or r[STATE] ~= OPEN then return 0 end
local counters = {}
local fits = true
for n = 1, scopes do
  local c = read_counters(KEYS[1 + n])
  if not c or c[VERSION] < 0 then return 0 end
  counters[n] = c
  if fits then
    refresh(c, a, CLAIMS[n], wall, steady)
    local left = left_of(c, a, CLAIMS[n])
    for resource = 1, 3 do
      if more[resource] > left[resource] then fits = false end
    end
  end
end
if not fits then
  for _, c in ipairs(counters) do
    if c[TURNED] then write_counters(c) end
  end
  return 0
end
for n, c in ipairs(counters) do
  turn_windows(c, wall)
  local scope = SCOPES[n]
  for resource, count in ipairs(COUNTS) do
    if c[count + NUMBER] == r[scope + resource] then c[count + HELD] = c[count + HELD] + more[resource] end
  end
  if r[scope] >= 0 and c[TOKENS_BUCKET + LIMIT] > 0 then
    take(c, TOKENS_BUCKET, more[2])
    r[scope] = r[scope] + more[2]
  end
  write_counters(c)
end
for n = 1, 3 do r[HOLD + n - 1] = r[HOLD + n - 1] + more[n] end
write_reservation(KEYS[1], r)
return 1

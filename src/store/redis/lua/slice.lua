-- One step of a slice: quota that an edge drew ahead and admits from memory. Books what has ended,
-- sets what it holds from now on, meets a need, grants more; or ends one whose lease has run out.
--
-- A slice lies among the reservations. Of their figures GRANTED_OUTPUT is the number of its last
-- step, GRANTED_LEFT whether that met the need, GRANTED what it granted: a step that comes again only
-- answers. CHARGED is what its running exchanges hold, which is all that a lost slice is charged; once
-- lost, what it was charged and late exchanges need not pay again.
--
-- KEYS: the slice, the leases, the key's counters, four sets of events (book.lua), the days, what is
-- owed, sums and errors of each day that is booked, the group's counters (where claimed).
-- ARGV: packed figures, the slice's id, its subject, the key's id, the step's id, then of each event:
-- packed figures, the event, its model, its error code.
-- Answers a packed code, whether the need was met, grants, shares; then the counters of each scope.
local GRANTING, STOPPED, LOST, NOT_DUE = 1, 2, 3, 4
local WALL, STEADY, MODE, SEQ, LAST, KEEP, IN_USE, WANTED, LEAST, NEED = 1, 2, 3, 4, 5, 6, 9, 12, 15, 18
local PERCENT, MOST_AT_ONCE, LEASE, REMEMBER, DAYS = 21, 22, 23, 24, 25
local CLAIMS = {26, 36}
local STEP, LOSE_CHARGE = 0, 1
local SLICE = 4
local EVENT = '>i8i8i8i8i8i8i8i8i8'
local MET = GRANTED_LEFT

local a = {struct.unpack('>' .. string.rep('i8', #ARGV[1] / 8), ARGV[1])}
local wall, steady = clock(a[WALL], a[STEADY])
local lost = a[MODE] ~= STEP
local group = KEYS[10 + 2 * a[DAYS]]
local NOTHING = {0, 0, 0}

local function three(figures, at)
  return {figures[at], figures[at + 1], figures[at + 2]}
end

local function answer(code, met, granted, shares, counters)
  local blobs = {}
  for n, c in ipairs(counters) do blobs[n] = packed(c) end
  return struct.pack('>i8i8i8i8i8i8i8i8', code, met, granted[1], granted[2], granted[3], shares[1], shares[2],
    shares[3]) .. table.concat(blobs)
end

local counters, scopes = {}, group and 2 or 1
for n = 1, scopes do
  local c = read_counters(n == 1 and KEYS[3] or group)
  counters[n] = (c and c[VERSION] >= 0) and c or false
end

local r = read_reservation(KEYS[1])
if lost then
  local due = redis.call('ZSCORE', KEYS[2], ARGV[2])
  if not r or r[STATE] ~= SLICE or not due or tonumber(due) > steady then
    return answer(NOT_DUE, 0, NOTHING, NOTHING, {})
  end
elseif not r and a[SEQ] == 1 then
  if not counters[1] or counters[scopes] == false then return answer(STOPPED, 0, NOTHING, NOTHING, {}) end
  r = {SLICE, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, ARGV[3]}
elseif not r then
  -- Redis lost it (a failover): nothing is held, what has ended is booked in the present windows.
  r = {EXPIRED, a[SEQ] - 1, 0, 0, 0, 0, 0, 0, 0, 0, -1, PRESENT, PRESENT, PRESENT, -1, PRESENT, PRESENT, PRESENT, 0, 0, 0, ARGV[3]}
elseif r[STATE] == SETTLED then
  return answer(STOPPED, 0, NOTHING, NOTHING, {})
end

local late = r[STATE] == EXPIRED
local repeated = not lost and r[GRANTED_OUTPUT] >= a[SEQ]
local opens = not lost and not repeated and a[SEQ] == 1

-- Whether more may be drawn: every record and window is still that of the slice.
local grants = not late and not lost
for n = 1, scopes do
  local c = counters[n]
  local version = a[CLAIMS[n]]
  if not c or (not lost and version >= 0 and c[VERSION] > version) then
    grants = false
  elseif grants and version > c[VERSION] then
    c[VERSION] = version
  end
end
local needs = not late and not lost and max(a[NEED], a[NEED + 1], a[NEED + 2]) > 0
local draws = grants and max(a[WANTED], a[WANTED + 1], a[WANTED + 2]) > 0
for n = 1, scopes do
  local c = counters[n]
  if c then
    if draws or (needs and not repeated) then refresh(c, a, CLAIMS[n], wall, steady) else turn_windows(c, wall) end
    for resource, count in ipairs(COUNTS) do
      if opens then r[SCOPES[n] + resource] = c[count + NUMBER] end
      if c[count + NUMBER] ~= r[SCOPES[n] + resource] then grants = false end
    end
  end
end
draws = draws and grants

if repeated then
  if r[STATE] == SLICE then redis.call('ZADD', KEYS[2], steady + a[LEASE], ARGV[2]) end
  local code = late and LOST or (grants and GRANTING or STOPPED)
  return answer(code, r[MET], three(r, GRANTED), {-1, -1, -1}, grants and counters or {})
end

local held, keep = three(r, HOLD), lost and {0, 0, 0} or three(a, KEEP)
if late then keep = {0, 0, 0} end
local charged, errors, newest = {0, 0, 0}, 0, 0

-- Books one event of the arguments; what a lost slice was charged pays for it first.
local function book_event(at, amounts)
  local e = {struct.unpack(EVENT, ARGV[at])}
  local sum = amounts or three(e, 1)
  for n = 1, 3 do
    if late then
      local paid = min(sum[n], r[CHARGED + n - 1])
      r[CHARGED + n - 1] = r[CHARGED + n - 1] - paid
      sum[n] = sum[n] - paid
    end
    charged[n] = charged[n] + sum[n]
  end
  errors, newest = errors + e[4], max(newest, e[5])
  local order = struct.unpack('>I6', ARGV[5]) + at
  if counters[1] then
    note_activity(counters[1], sum[1], e[4], e[5])
    order = counters[1][EVENTS]
  end
  local day = 10 + 2 * e[9]
  book(4, KEYS[day], KEYS[day + 1], KEYS[8], order, late, e[5], sum, e[6], e[7], e[8], e[4],
    ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[4], true)
end

if lost then
  local used = a[MODE] == LOSE_CHARGE and three(r, CHARGED) or NOTHING
  if max(used[1], used[2], used[3]) > 0 then book_event(6, used) end
else
  for at = 6, #ARGV, 4 do book_event(at) end
end

-- Books what was charged and gives back what is not kept, in the windows the slice came from.
for n = 1, scopes do
  local c = counters[n]
  if c then
    for resource, count in ipairs(COUNTS) do
      local number = r[SCOPES[n] + resource]
      c[count + BOOKED] = c[count + BOOKED] + charged[resource]
      if number == PRESENT or number == c[count + NUMBER] then
        c[count + USED] = c[count + USED] + charged[resource]
        c[count + HELD] = c[count + HELD] + keep[resource] - held[resource]
      end
    end
    if c[REQUESTS_BUCKET + LIMIT] > 0 then give_back(c, REQUESTS_BUCKET, held[1] - charged[1] - keep[1]) end
    if c[TOKENS_BUCKET + LIMIT] > 0 then give_back(c, TOKENS_BUCKET, held[2] - charged[2] - keep[2]) end
  end
end
if not counters[1] then
  -- The key moved to another group, or is gone: what it owes is paid where its counters are now.
  local s = SCOPES[1]
  local figures = {0, 0, held[1] - keep[1], held[2] - keep[2], held[3] - keep[3], charged[1], charged[2], charged[3],
    -1, r[s + 1], r[s + 2], r[s + 3], 0, errors, newest}
  local moved = errors
  for n = 3, 8 do moved = max(moved, math.abs(figures[n])) end
  if moved > 0 then
    redis.call('HSET', KEYS[9], ARGV[5], struct.pack('>' .. string.rep('i8', 15), unpack(figures)) .. ARGV[4])
  end
end

-- What each scope bears of each resource.
local left, levels = {math.huge, math.huge, math.huge}, {math.huge, math.huge, math.huge}
if draws or needs then
  for n = 1, scopes do
    local c = counters[n]
    local of_scope = c and left_of(c, a, CLAIMS[n]) or NOTHING
    for resource = 1, 3 do left[resource] = min(left[resource], of_scope[resource]) end
    if c and c[REQUESTS_BUCKET + LIMIT] > 0 then levels[1] = min(levels[1], floor(c[REQUESTS_BUCKET + LEVEL] / PARTS)) end
    if c and c[TOKENS_BUCKET + LIMIT] > 0 then levels[2] = min(levels[2], floor(c[TOKENS_BUCKET + LEVEL] / PARTS)) end
  end
end

-- A running answer's need: the whole of it or nothing, and per-minute buckets are not asked.
local met = needs and 1 or 0
for n = 1, 3 do
  if a[NEED + n - 1] > left[n] then met = 0 end
end
local more = met == 1 and three(a, NEED) or {0, 0, 0}
for n = 1, 2 do
  levels[n] = levels[n] - more[n]
end

-- More to admit from: a share of what is left, so that slices shrink near the limit.
local granted, shares = {0, 0, 0}, {0, 0, 0}
if draws then
  for n = 1, 3 do
    local unspent = keep[n] - a[IN_USE + n - 1]
    local free = max(min(left[n] - more[n], levels[n]), 0)
    local share = min(floor((free + unspent) * a[PERCENT] / 100), n < 3 and a[MOST_AT_ONCE] or MOST)
    shares[n] = share
    granted[n] = max(min(a[WANTED + n - 1], share - unspent, free), 0)
    if granted[n] + unspent < a[LEAST + n - 1] then draws = false end
  end
  if not draws then granted = {0, 0, 0} end
end

for n = 1, scopes do
  local c = counters[n]
  if c then
    for resource, count in ipairs(COUNTS) do
      if r[SCOPES[n] + resource] == c[count + NUMBER] then
        c[count + HELD] = c[count + HELD] + granted[resource] + more[resource]
      end
    end
    if c[REQUESTS_BUCKET + LIMIT] > 0 then take(c, REQUESTS_BUCKET, granted[1]) end
    if c[TOKENS_BUCKET + LIMIT] > 0 then take(c, TOKENS_BUCKET, granted[2] + more[2]) end
    write_counters(c)
  end
end

for n = 0, 2 do
  r[HOLD + n] = keep[n + 1] + granted[n + 1] + more[n + 1]
  r[GRANTED + n] = granted[n + 1]
  if lost then
    r[CHARGED + n] = charged[n + 1]
  elseif not late then
    r[CHARGED + n] = a[IN_USE + n] + more[n + 1]
  end
end
r[MET] = met
if not lost then r[GRANTED_OUTPUT] = a[SEQ] end
if lost or late then
  r[STATE] = EXPIRED
  redis.call('SET', KEYS[1], struct.pack(RESERVATION, unpack(r, 1, 21)) .. r[SUBJECT], 'PX', a[REMEMBER])
  redis.call('ZREM', KEYS[2], ARGV[2])
elseif a[LAST] == 1 then
  redis.call('SET', KEYS[1], 's', 'PX', a[REMEMBER])
  redis.call('ZREM', KEYS[2], ARGV[2])
else
  write_reservation(KEYS[1], r)
  redis.call('ZADD', KEYS[2], steady + a[LEASE], ARGV[2])
end
if late then return answer(LOST, 0, NOTHING, NOTHING, {}) end
local small = a[WANTED] + a[WANTED + 1] + a[WANTED + 2] > 0 and not draws
return answer((grants and not small) and GRANTING or STOPPED, met, granted, shares, grants and counters or {})

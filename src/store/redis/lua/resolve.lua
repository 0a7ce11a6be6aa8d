-- Ends a reservation, once: settled, settled late after an expiry, or lost with its lease; books its
-- event and the sums of its day in the same step.
-- KEYS: the reservation, the leases, the key's counters, four sets of events (book.lua), the days, what
-- is owed, sums and errors of each day (that of the event first), the group's counters (where held).
-- ARGV: packed figures, the reservation's id, the event, its model, its error code, the key's id, then
-- of each further event: packed figures, the event, its model, its error code.
-- Answers what was done and what was charged.
local ALREADY, APPLIED, LATE, NOT_DUE = 0, 1, 2, 3
local WALL, STEADY, KIND, REQUESTS, IS_ERROR, CREATED, PROMPT, COMPLETION, TOOK, KEEP_SETTLED, KEEP_EXPIRED, DAYS = 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14
local EVENT = '>i8i8i8i8i8i8i8i8i8'
local EXACT, AT_LEAST, VOID, LOST_CHARGE, LOST_RELEASE, RECONCILE, UNDO = 0, 1, 2, 3, 4, 5, 6

local a = {struct.unpack('>' .. string.rep('i8', 14), ARGV[1])}
local wall, steady = clock(a[WALL], a[STEADY])
local group = KEYS[10 + 2 * a[DAYS]]
local kind = a[KIND]
local void = kind == VOID or kind == LOST_RELEASE or kind == UNDO
local lost = kind == LOST_CHARGE or kind == LOST_RELEASE

local function answer(code, charged, held, owed)
  return struct.pack('>i8i8i8i8i8i8i8i8', code, charged[1], charged[2], charged[3], held[1], held[2], held[3], owed)
end
local NOTHING = {0, 0, 0}

local r = read_reservation(KEYS[1])
if not r and kind == UNDO then
  -- A reserve that was given up and may still be under way: it must not open anything any more.
  redis.call('SET', KEYS[1], 's', 'PX', a[KEEP_SETTLED])
end
-- Admitted while Redis was away: nothing is held, the charge goes to the present windows.
local unheld = not r and kind == RECONCILE
if unheld then
  r = {OPEN, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, PRESENT, PRESENT, PRESENT, -1, PRESENT, PRESENT, PRESENT, 0, 0, 0}
end
if not r or r[STATE] == SETTLED or r[STATE] == SETTLED_LATE then return answer(ALREADY, NOTHING, NOTHING, 0) end
local late = r[STATE] == EXPIRED
if lost then
  local due = redis.call('ZSCORE', KEYS[2], ARGV[2])
  if late or not due or tonumber(due) > steady then return answer(NOT_DUE, NOTHING, NOTHING, 0) end
end

local held = {r[HOLD], r[HOLD + 1], r[HOLD + 2]}
local charged = {}
for n = 1, 3 do
  local asked = max(min(a[REQUESTS + n - 1], MOST), 0)
  if kind == AT_LEAST then asked = max(asked, held[n]) end
  if void then asked = 0 end
  if kind == LOST_CHARGE then asked = held[n] end
  if late then asked = max(asked - r[CHARGED + n - 1], 0) end
  charged[n] = asked
end

local ended = {wall = wall, steady = steady, rated = r[RATED] == 1, late = late, void = void, held = held, charged = charged}
local function close_scope(c, scope)
  close(c, ended, r[scope], {r[scope + 1], r[scope + 2], r[scope + 3]})
end

-- Of the requests charged each further event has its own, as far as they go; the first has the rest.
local further, own, errors, newest = {}, charged[1], a[IS_ERROR], a[CREATED]
for at = 7, #ARGV, 4 do
  local e = {struct.unpack(EVENT, ARGV[at])}
  e.at, e.requests = at, max(min(e[1], own), 0)
  own, errors, newest = own - e.requests, errors + e[4], max(newest, e[5])
  further[#further + 1] = e
end

-- Events of one millisecond are told apart by their order: counted, or of the id where nothing counts.
local key_counters, owed = read_counters(KEYS[3]), 0
local order = struct.unpack('>I6', ARGV[2]) * 2 + (late and 1 or 0)
if key_counters and key_counters[VERSION] >= 0 then
  local c = key_counters
  close_scope(c, SCOPES[1])
  note_activity(c, charged[1], errors, newest)
  order = c[EVENTS]
  c[EVENTS] = order + 2 * #further
  write_counters(c)
else
  -- The key moved to another group, or is gone: what it owes is paid where its counters are now.
  local figures = {r[RATED], late and 1 or 0, held[1], held[2], held[3], charged[1], charged[2], charged[3],
    r[SCOPES[1]], r[SCOPES[1] + 1], r[SCOPES[1] + 2], r[SCOPES[1] + 3], void and 1 or 0, errors, newest}
  redis.call('HSET', KEYS[9], ARGV[2] .. (late and 'l' or ''), struct.pack('>' .. string.rep('i8', 15), unpack(figures)) .. ARGV[6])
  owed = 1
end
if group then
  local c = read_counters(group)
  if c and c[VERSION] >= 0 then
    close_scope(c, SCOPES[2])
    write_counters(c)
  end
end

if lost then
  r[STATE] = EXPIRED
  for n = 1, 3 do r[CHARGED + n - 1] = charged[n] end
  redis.call('SET', KEYS[1], struct.pack(RESERVATION, unpack(r, 1, 21)) .. r[SUBJECT], 'PX', a[KEEP_EXPIRED])
elseif late then
  r[STATE] = SETTLED_LATE
  redis.call('SET', KEYS[1], struct.pack(RESERVATION, unpack(r, 1, 21)), 'PX', a[KEEP_EXPIRED])
else
  -- Remembered for a while: a reserve that comes again, late, must not open it anew.
  redis.call('SET', KEYS[1], 's', 'PX', unheld and a[KEEP_EXPIRED] or a[KEEP_SETTLED])
end
if not late then redis.call('ZREM', KEYS[2], ARGV[2]) end
book(4, KEYS[10], KEYS[11], KEYS[8], order, late, a[CREATED], {own, charged[2], charged[3]}, a[PROMPT], a[COMPLETION],
  a[TOOK], a[IS_ERROR], ARGV[3], ARGV[4], ARGV[5], ARGV[6], true)
for n, e in ipairs(further) do
  local day = 10 + 2 * e[9]
  book(4, KEYS[day], KEYS[day + 1], KEYS[8], order + 2 * n, late, e[5], {e.requests, 0, 0}, e[6], e[7], e[8], e[4],
    ARGV[e.at + 1], ARGV[e.at + 2], ARGV[e.at + 3], ARGV[6], true)
end
return answer(late and LATE or APPLIED, charged, held, owed)

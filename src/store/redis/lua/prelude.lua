-- What every step shares: the layout of counters and reservations, windows, buckets, exact money.
-- The rules are those of quota::ledger, in doubles: exact up to 2^53, which callers keep to.

-- Counters: fields of 8 bytes, big-endian. See counters.rs for the same layout.
local VERSION, RUNNING = 1, 23
local USED, HELD, BOOKED, PERIOD, START, STOP, NUMBER = 0, 1, 2, 3, 4, 5, 6
local COUNTS = {2, 9, 16}
local REQUESTS_BUCKET, TOKENS_BUCKET = 24, 27
local LEVEL, LIMIT, FILLED = 0, 1, 2
local REQUEST_COUNT, ERROR_COUNT, LAST_USED, EVENTS = 30, 31, 32, 33
local COUNTERS = '>' .. string.rep('i8', 33)

-- Reservations: the same, then the subject. See reservation.rs.
local STATE, GRANTED_OUTPUT, GRANTED_LEFT, GRANTED, HOLD, RATED = 1, 2, 3, 4, 7, 10
local SCOPES = {11, 15} -- of each: tokens taken (-1: no bucket), three window numbers
local CHARGED = 19
-- In place of a window number: whichever window there is.
local PRESENT = -1
local RESERVATION = '>' .. string.rep('i8', 21)
local OPEN, SETTLED, EXPIRED, SETTLED_LATE = 0, 1, 2, 3

local PARTS, MOST, MOST_BUCKET = 60000, 9007199254740992, 100000000000
local DAY = 86400000
local floor, fmod, min, max = math.floor, math.fmod, math.min, math.max

-- The server's clock, unless the caller brings one (tests do).
local function clock(wall, steady)
  if wall >= 0 then return wall, steady end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + floor(time[2] / 1000)
  return now, now
end

local function read_counters(key)
  local blob = redis.call('GET', key)
  if not blob then return nil end
  local c = {struct.unpack(COUNTERS, blob)}
  c.key = key
  return c
end

local function packed(c)
  return struct.pack(COUNTERS, unpack(c, 1, 33))
end

local function write_counters(c)
  local blob = packed(c)
  redis.call('SET', c.key, blob)
  return blob
end

-- First day of the month of `day` and of the next one, in days since 1970-01-01.
local LENGTHS = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
local function month_around(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local of_era = z - era * 146097
  local year_of_era = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local shifted = floor((5 * of_year + 2) / 153)
  local first = day - (of_year - floor((153 * shifted + 2) / 5))
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  local leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  return first, first + LENGTHS[month] + ((month == 2 and leap) and 1 or 0)
end

-- The window of a period that `wall` lies in; -1 as its end: none.
local function window(period, wall)
  local day = floor(wall / DAY)
  if period == 0 then return 0, -1 end
  if period == 1 then return day * DAY, (day + 1) * DAY end
  if period == 2 then
    local monday = day - (day + 3) % 7
    return monday * DAY, (monday + 7) * DAY
  end
  local first, next_first = month_around(day)
  return first * DAY, next_first * DAY
end

-- Brings one count to `wall` under `period`. A later window starts at 0; another period, or a clock
-- that was wrong by more than a whole one, keeps the figures under new dates.
local function turn(c, at, period, wall)
  local start, stop = c[at + START], c[at + STOP]
  if period == c[at + PERIOD] then
    if stop < 0 or (start <= wall and wall < stop) then return end
    local now_start, now_stop = window(period, wall)
    if now_start > start then
      c[at + USED], c[at + HELD] = 0, 0
      c[at + NUMBER] = c[at + NUMBER] + 1
    elseif start - wall <= stop - start then
      return
    end
    c[at + START], c[at + STOP] = now_start, now_stop
  else
    c[at + PERIOD] = period
    c[at + START], c[at + STOP] = window(period, wall)
  end
  c.changed = true
end

local function turn_windows(c, wall)
  for _, at in ipairs(COUNTS) do turn(c, at, c[at + PERIOD], wall) end
end

-- A bucket is refilled under the limit it had, then goes on under `limit`.
local function refill(c, at, limit, steady)
  if limit <= 0 then
    if c[at + LIMIT] > 0 then c.changed = true end
    c[at + LEVEL], c[at + LIMIT], c[at + FILLED] = 0, 0, 0
    return
  end
  limit = min(limit, MOST_BUCKET)
  if c[at + LIMIT] == 0 then
    c[at + LEVEL], c[at + LIMIT], c[at + FILLED] = limit * PARTS, limit, steady
    c.changed = true
    return
  end
  local elapsed = steady - c[at + FILLED]
  if elapsed > 0 then
    c[at + LEVEL] = min(c[at + LEVEL] + elapsed * c[at + LIMIT], c[at + LIMIT] * PARTS)
    c[at + FILLED] = steady
  elseif elapsed < -1000 then
    -- The server's clock was set back: nothing is gained, and nothing waits for the old time.
    c[at + FILLED] = steady
    c.changed = true
  end
  if limit ~= c[at + LIMIT] then
    c[at + LIMIT] = limit
    c[at + LEVEL] = min(c[at + LEVEL], limit * PARTS)
    c.changed = true
  end
end

local function take(c, at, units)
  c[at + LEVEL] = c[at + LEVEL] - units * PARTS
end

local function give_back(c, at, units)
  c[at + LEVEL] = min(c[at + LEVEL] + units * PARTS, c[at + LIMIT] * PARTS)
end

-- A claim, as it stands in the packed arguments from `at`: version, three limits, three periods,
-- requests and tokens per minute, concurrency.
local CLAIM = 10

local function refresh(c, a, at, wall, steady)
  for n, count in ipairs(COUNTS) do turn(c, count, a[at + 3 + n], wall) end
  refill(c, REQUESTS_BUCKET, a[at + 7], steady)
  refill(c, TOKENS_BUCKET, a[at + 8], steady)
end

-- What is left of each resource; math.huge where unlimited.
local function left_of(c, a, at)
  local left = {}
  for n, count in ipairs(COUNTS) do
    local limit = a[at + n]
    left[n] = limit == 0 and math.huge or limit - c[count + USED] - c[count + HELD]
  end
  return left
end

-- Nano-USD for tokens at a price per million, rounded up; exact although the product may not be.
local function cost_of(tokens, price)
  if tokens <= 0 or price <= 0 then return 0 end
  local price_rest = fmod(price, 1000000)
  local tokens_rest = fmod(tokens, 1000000)
  local whole = tokens * ((price - price_rest) / 1000000) + ((tokens - tokens_rest) / 1000000) * price_rest
  return min(whole + math.ceil(tokens_rest * price_rest / 1000000), MOST)
end

-- The most tokens that cost at most `nano`.
local function tokens_for(nano, price)
  if price <= 0 or nano == math.huge then return math.huge end
  nano = max(nano, 0)
  local rest = fmod(nano, price)
  local tokens = (nano - rest) / price * 1000000
  local scaled = rest * 1000
  local low = fmod(scaled, price)
  tokens = tokens + (scaled - low) / price * 1000
  scaled = low * 1000
  return tokens + (scaled - fmod(scaled, price)) / price
end

local function read_reservation(key)
  local blob = redis.call('GET', key)
  if not blob then return nil end
  if #blob < 168 then return {SETTLED} end
  local r = {struct.unpack(RESERVATION, blob)}
  r.key, r.subject = key, string.sub(blob, 169)
  return r
end

local function write_reservation(r)
  redis.call('SET', r.key, struct.pack(RESERVATION, unpack(r, 1, 21)) .. r.subject)
end

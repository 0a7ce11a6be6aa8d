-- Counters: how they are laid out, their windows and their buckets.
-- The rules are those of quota::ledger, in doubles: exact up to 2^53, which callers keep to.

-- Fields of 8 bytes, big-endian: see layout.rs. While a step runs, behind them the name, and whether
-- what a refusal must not lose has changed.
local VERSION, RUNNING = 1, 23
local USED, HELD, BOOKED, PERIOD, START, STOP, NUMBER = 0, 1, 2, 3, 4, 5, 6
local COUNTS = {2, 9, 16}
-- In place of a window number: whichever window there is.
local PRESENT = -1
local REQUESTS_BUCKET, TOKENS_BUCKET = 24, 27
local LEVEL, LIMIT, FILLED = 0, 1, 2
local REQUEST_COUNT, ERROR_COUNT, LAST_USED, EVENTS = 30, 31, 32, 33
local NAME, TURNED = 34, 35
local COUNTERS = '>' .. string.rep('i8', 33)

local PARTS, MOST, MOST_BUCKET = 60000, 9007199254740992, 100000000000
local DAY = 86400000

local function read_counters(key)
  local blob = redis.call('GET', key)
  if not blob then return nil end
  local c = {struct.unpack(COUNTERS, blob)}
  c[NAME] = key
  return c
end

local function packed(c)
  return struct.pack(COUNTERS, unpack(c, 1, 33))
end

local function write_counters(c)
  local blob = packed(c)
  redis.call('SET', c[NAME], blob)
  return blob
end

-- First day of the month of `day` and of the next one, in days since 1970-01-01.
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
  local lengths = {31, leap and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
  return first, first + lengths[month]
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
  c[TURNED] = true
end

local function turn_windows(c, wall)
  for n = 1, 3 do
    local at = COUNTS[n]
    turn(c, at, c[at + PERIOD], wall)
  end
end

-- A bucket is refilled under the limit it had, then goes on under `limit`.
local function refill(c, at, limit, steady)
  if limit <= 0 then
    if c[at + LIMIT] > 0 then c[TURNED] = true end
    c[at + LEVEL], c[at + LIMIT], c[at + FILLED] = 0, 0, 0
    return
  end
  limit = min(limit, MOST_BUCKET)
  if c[at + LIMIT] == 0 then
    c[at + LEVEL], c[at + LIMIT], c[at + FILLED] = limit * PARTS, limit, steady
    c[TURNED] = true
    return
  end
  local elapsed = steady - c[at + FILLED]
  if elapsed > 0 then
    c[at + LEVEL] = min(c[at + LEVEL] + elapsed * c[at + LIMIT], c[at + LIMIT] * PARTS)
    c[at + FILLED] = steady
  elseif elapsed < -1000 then
    -- The server's clock was set back: nothing is gained, and nothing waits for the old time.
    c[at + FILLED] = steady
    c[TURNED] = true
  end
  if limit ~= c[at + LIMIT] then
    c[at + LIMIT] = limit
    c[at + LEVEL] = min(c[at + LEVEL], limit * PARTS)
    c[TURNED] = true
  end
end

local function take(c, at, units)
  c[at + LEVEL] = c[at + LEVEL] - units * PARTS
end

local function give_back(c, at, units)
  c[at + LEVEL] = min(c[at + LEVEL] + units * PARTS, c[at + LIMIT] * PARTS)
end
